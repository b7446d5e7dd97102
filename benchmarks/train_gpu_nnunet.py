"""nnU-Net's part of train_gpu.py: its trainer's own step on a batch that is there already.

    PYTHON_WITH_NNUNETV2 benchmarks/train_gpu_nnunet.py WORK JSON

Network, loss with deep supervision, optimiser, mixed precision and torch.compile are its own. No loading and no
augmentation: what its workers do beside the card is not in the figures. Prints one JSON line. Written for nnunetv2 2.8.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from train_gpu import Steps, watched


def plans(sizes: dict[str, Any], topology: dict[str, Any]) -> dict[str, Any]:
    stages = len(sizes["features"])
    linear = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    network = {
        **topology, "n_stages": stages, "conv_op": "torch.nn.modules.conv.Conv3d", "conv_bias": True,
        "n_conv_per_stage": [2] * stages, "n_conv_per_stage_decoder": [2] * (stages - 1),
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d", "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None, "dropout_op_kwargs": None, "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }  # fmt: skip
    configuration = {
        "data_identifier": "x", "preprocessor_name": "DefaultPreprocessor", "batch_size": sizes["batch"],
        "patch_size": [sizes["patch"]] * 3, "median_image_size_in_voxels": [sizes["case"]] * 3,
        "spacing": [1.0] * 3, "normalization_schemes": ["ZScoreNormalization"], "use_mask_for_norm": [False],
        **{f"resampling_fn_{what}": "resample_data_or_seg_to_shape" for what in ("data", "seg", "probabilities")},
        **{f"resampling_fn_{what}_kwargs": linear for what in ("data", "seg", "probabilities")},
        "architecture": {"network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                         "arch_kwargs": network,
                         "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"]},
        "batch_dice": False,
    }  # fmt: skip
    return {
        "dataset_name": "Dataset999_Synthetic", "plans_name": "nnUNetPlans", "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2], "original_median_spacing_after_transp": [1.0] * 3,
        "original_median_shape_after_transp": [sizes["case"]] * 3, "image_reader_writer": "SimpleITKIO",
        "experiment_planner_used": "ExperimentPlanner", "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {}, "configurations": {"3d_fullres": configuration},
        "continue_training": False,
    }  # fmt: skip


def measure(said: dict[str, Any]) -> dict[str, Any]:
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    sizes, device = said["sizes"], said["device"]
    described = {
        "channel_names": {"0": "x"},
        "labels": {"background": 0, "one": 1, "two": 2},
        "file_ending": ".nii.gz",
    }
    trainer = nnUNetTrainer(plans(sizes, said["topology"]), "3d_fullres", 0, described, torch.device(device))
    trainer.initialize()
    trainer.network.train()
    edge = [sizes["patch"]] * 3
    images = torch.randn(sizes["batch"], 1, *edge)
    stages = len(sizes["features"]) - 1
    targets = [
        torch.randint(0, 3, (sizes["batch"], 1, *(n // 2**level for n in edge))).float()
        for level in range(stages)
    ]
    steps = Steps()
    with watched(device) as facts:
        for _ in range(sizes["steps"]):
            steps.note()
            trainer.train_step({"data": images, "target": targets if stages > 1 else targets[0]})
    precision = "fp16" if device == "cuda" else "fp32"
    return {
        "seconds_per_step": steps.seconds_per_step,
        "data_wait_percent": None,
        "precision": precision,
        **facts,
    }


def main() -> None:
    work = Path(sys.argv[1]).resolve()
    for name in ("raw", "preprocessed", "results"):
        (work / name).mkdir(parents=True, exist_ok=True)
        os.environ[f"nnUNet_{name}"] = str(work / name)
    with contextlib.redirect_stdout(sys.stderr):
        facts = measure(json.loads(sys.argv[2]))
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
