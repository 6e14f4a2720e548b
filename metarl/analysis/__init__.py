"""Tables, figures and reports of finished and running runs."""
