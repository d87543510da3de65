"""The options of each command, in the groups in which help lists them."""

GROUPS: dict[str, dict[str, tuple[str, ...]]] = {
    "train": {
        "data": ("data", "data_dir", "download", "batch_size", "shift", "flip"),
        "network": ("network", "hidden", "depth", "width", "dropout"),
        "what to keep": (
            "target_parameters",
            "target_macs",
            "target_latency",
            "code_cost",
            "cost",
            "gates",
            "init_open",
        ),
        "priors": ("inclusion", "expected_open", "slab", "slab_scale"),
        "training": (
            "epochs",
            "fine_tune",
            "lr",
            "optimizer",
            "momentum",
            "weight_decay",
            "schedule",
            "accumulate",
            "clip_norm",
            "ema",
            "patience",
        ),
        "how gates move": (
            "selection",
            "gate_lr",
            "kl_warmup",
            "num_particles",
            "antithetic",
            "independent_draws",
            "draws_apart",
            "shrink_below",
        ),
        "networks beside it": ("compare", "thin", "teacher", "teacher_weight", "temperature"),
        "run": (
            "out",
            "seed",
            "device",
            "progress",
            "tensorboard",
            "bf16",
            "compile",
            "channels_last",
            "round_to",
            "masked",
        ),
    },
    "evaluate": {"options": ("folder", "network", "part", "data_dir", "json")},
    "report": {"options": ("folder", "out")},
    "export": {"options": ("folder", "network", "onnx", "torch_export")},
    "select": {
        "data": ("csv", "response", "drop", "likelihood"),
        "what is known": ("expected_open", "inclusion", "noise_scale", "slab_scale"),
        "method": ("method", "draws", "seed"),
        "results": ("out", "level"),
    },
}

# What the short help of `train` lists; `--help-all` has the rest.
COMMON = {
    *("data", "data_dir", "download", "network", "hidden", "target_parameters", "target_macs", "code_cost", "gates"),
    *("epochs", "fine_tune", "lr", "batch_size", "thin", "out", "seed", "device", "tensorboard"),
}

POSITIONAL = {"folder", "csv"}
