"""Hostile nodes of a configuration: their targets, and their places."""

from pathlib import Path
from random import Random
from typing import Any

SECRET = "METARL_FAULTS_SECRET"


def nodes(canary: Path) -> dict[str, dict[str, Any]]:
    """Nodes that would touch the canary file, import a module with a side effect, or disclose a secret; by name."""
    shell = f"echo executed >> '{canary}'"
    code = f"open({str(canary)!r}, 'a').write('executed')"
    return {
        "os.system": _of("os.system", command=shell),
        "posix.system": _of("posix.system", command=shell),
        "os.popen": _of("os.popen", cmd=shell),
        "os.execv": _of("os.execv", "/bin/sh", ["sh", "-c", shell]),
        "os.remove": _of("os.remove", str(canary)),
        "os.putenv": _of("os.putenv", "A", "b"),
        "subprocess.run": _of("subprocess.run", args=shell, shell=True),
        "subprocess.Popen": _of("subprocess.Popen", args=["/bin/sh", "-c", shell]),
        "subprocess.check_output": _of("subprocess.check_output", ["/bin/sh", "-c", shell]),
        "subprocess.getoutput": _of("subprocess.getoutput", cmd=shell),
        "builtins.eval": _of("builtins.eval", code),
        "builtins.exec": _of("builtins.exec", code),
        "builtins.open": _of("builtins.open", file=str(canary), mode="w"),
        "builtins.__import__": _of("builtins.__import__", "fault_kinds.effect"),
        "builtins.compile": _of("builtins.compile", code, "file", "exec"),
        "builtins.getattr": _of("builtins.getattr", {"_target_": "builtins.__import__", "_args_": ["os"]}, "system"),
        "torch.utils.collect_env.run": _of("torch.utils.collect_env.run", command=shell),
        "torch.hub.load": _of("torch.hub.load", str(canary.parent), "a", source="local"),
        "torch.load": _of("torch.load", str(canary.parent / "pickle.pt"), weights_only=False),
        "torch.save": _of("torch.save", 1, str(canary)),
        "torch.utils.cpp_extension.load_inline": _of("torch.utils.cpp_extension.load_inline", "a", "int a;"),
        "numpy.load": _of("numpy.load", str(canary.parent / "pickle.pt"), allow_pickle=True),
        "numpy.save": _of("numpy.save", str(canary), [1]),
    } | _importing(canary, shell, code)


def _importing(canary: Path, shell: str, code: str) -> dict[str, dict[str, Any]]:
    """Nodes that import, load, connect, or use a name below metarl."""
    return {
        "importlib.import_module": _of("importlib.import_module", "fault_kinds.effect"),
        "runpy.run_path": _of("runpy.run_path", str(canary.parent / "evil.py")),
        "runpy.run_module": _of("runpy.run_module", "fault_kinds.effect"),
        "pickle.loads": _of("pickle.loads", f"cposix\nsystem\n(S'{shell}'\ntR."),
        "pickle.load": _of("pickle.load", {"_target_": "builtins.open", "_args_": [str(canary.parent / "pickle.pt")]}),
        "shutil.rmtree": _of("shutil.rmtree", str(canary.parent)),
        "shutil.copy": _of("shutil.copy", "/etc/hostname", str(canary)),
        "pathlib.Path.write_text": _of("pathlib.Path.write_text", {"_target_": "pathlib.Path", "_args_": ["a"]}, "b"),
        "timeit.timeit": _of("timeit.timeit", code, number=1),
        "code.interact": _of("code.interact"),
        "pdb.run": _of("pdb.run", code),
        "pty.spawn": _of("pty.spawn", ["/bin/sh", "-c", shell]),
        "platform.popen": _of("asyncio.create_subprocess_shell", shell),
        "webbrowser.open": _of("webbrowser.open", "http://127.0.0.1:9/"),
        "urllib.request.urlopen": _of("urllib.request.urlopen", "http://127.0.0.1:9/"),
        "socket.create_connection": _of("socket.create_connection", ["127.0.0.1", 9]),
        "ctypes.CDLL": _of("ctypes.CDLL", "libc.so.6"),
        "multiprocessing.Process": _of("multiprocessing.Process", target={"_target_": "os.getpid"}),
        "hydra.utils.instantiate": _of("hydra.utils.instantiate", {"_target_": "os.system", "command": shell}),
        "hydra.utils.call": _of("hydra.utils.call", {"_target_": "os.system", "command": shell}),
        "hydra.utils.get_class": _of("hydra.utils.get_class", path="fault_kinds.effect.Anything"),
        "hydra.utils.get_object": _of("hydra.utils.get_object", path="fault_kinds.effect.Anything"),
        "hydra.utils.get_method of a bad path": _of("hydra.utils.get_method", path="os.system"),
        "omegaconf.OmegaConf.load": _of("omegaconf.OmegaConf.load", "/etc/hostname"),
        "yaml.unsafe_load": _of("yaml.unsafe_load", f"!!python/object/apply:os.system ['{shell}']"),
        "metarl.configuration.compose.os": _of("metarl.runs.sweep.os.system", shell),
        "metarl.experiment.subprocess.run": _of("metarl.experiment.subprocess.run", shell, shell=True),
        "metarl.launching.pool.shutil.rmtree": _of("metarl.launching.pool.shutil.rmtree", str(canary.parent)),
        "metarl.runs.checkpoint.os.replace": _of("metarl.runs.checkpoint.os.replace", str(canary), "b"),
        "metarl.configuration.build.instantiate": _of(
            "metarl.configuration.build.instantiate", {"_target_": "os.system", "command": shell}
        ),
        "a module with an effect": {"_target_": "fault_kinds.effect"},
        "a class of it": {"_target_": "fault_kinds.effect.Anything"},
        "a partial of it": {"_target_": "fault_kinds.effect.Anything", "_partial_": True},
        "antigravity": {"_target_": "antigravity.geohash"},
        "an attribute of a function": {"_target_": "metarl.configuration.build.build.__globals__.get"},
        "an object's class": {"_target_": "metarl.models.gru.GRU.__init__.__globals__"},
        "a method that trains": {"_target_": "metarl.cli.main", "arguments": ["resume", str(canary.parent)]},
    }


def _of(target: str, /, *arguments: Any, **named: Any) -> dict[str, Any]:
    node: dict[str, Any] = {"_target_": target, **named}
    return node | ({"_args_": list(arguments)} if arguments else {})


def insert(config: dict[str, Any], place: str, node: dict[str, Any]) -> None:
    """Put a hostile node into a configuration."""
    target = str(node["_target_"])
    if place == "env.make":
        config["env"] = _gymnasium(":".join(target.rsplit(".", 1)))
    elif place == "env.make id":
        config["env"] = _gymnasium("fault_kinds.effect:Anything-v0")
    elif place == "a list":
        config["algorithm"]["decoder_layers"] = [node, [node]]
        config["model"]["layers"] = [node]
    elif place == "logger":
        config["logger"] = {"mine": node}
    elif place == "an argument":
        config["algorithm"]["discount"] = node
        config["env"]["horizon"] = node
    elif "." in place:
        group, key = place.split(".")
        config[group][key] = node
    elif place == "everything":
        config |= node
    else:
        config[place] = node if dict_has_target(node) else config[place]


def dict_has_target(node: dict[str, Any]) -> bool:
    """Whether a node names a target to call."""
    return "_target_" in node


def _gymnasium(make: str) -> dict[str, Any]:
    return {
        "_target_": "metarl.envs.gymnasium_lanes.GymnasiumEnv",
        "_partial_": True,
        "make": make,
        "options": {},
        "horizon": 6,
        "num_episodes": 2,
        "ends_early": False,
        "num_workers": 0,
    }


PLACES = (
    *("env", "model", "algorithm", "logger", "model.memory", "model.heads", "model.conditioning", "env.make"),
    *(
        "env.make id",
        "a list",
        "an argument",
        "training",
        "eval",
        "seed",
        "choices",
        "everything",
        "algorithm.meta_optimizer",
    ),
)
INTERPOLATIONS = (
    f"${{oc.env:{SECRET}}}",
    f"${{oc.decode:${{oc.env:{SECRET}}}}}",
    "${hydra:runtime.cwd}",
    "${now:%Y}",
    "${sweep_name:[a]}",
    f"prefix ${{oc.env:{SECRET},b}} suffix",
)
WHERE = ("model.hidden_size", "env.size", "algorithm.learning_rate", "device", "seed", "env.goals", "model.critic")


def interpolated(config: dict[str, Any], dice: Random) -> str:
    """Replace a value by an interpolation of this machine's environment; returns key and value."""
    key, text = dice.choice(WHERE), dice.choice(INTERPOLATIONS)
    *groups, leaf = key.split(".")
    node = config
    for group in groups:
        node = node[group]
    node[leaf] = text
    return f"{key}={text}"
