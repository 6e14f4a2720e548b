"""Classical solvers and exact optima of environments."""
