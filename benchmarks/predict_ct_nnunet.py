"""nnU-Net's half of predict_ct.py: its whole prediction of the same CT, through its own classes.

    PYTHON_WITH_NNUNETV2 benchmarks/predict_ct_nnunet.py FOLDER [--classes 25] [--slices 400] [--resampling default]

Writes its weights (weights.safetensors) and labels (labels.npy) into FOLDER and prints one JSON line. `--resampling
torch` takes the resize of logits that its plans can be set to. `--way-back-only` leaves the windows out and brings
logits of noise back: that part costs the same whatever the logits are. Written for nnunetv2 2.8.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from predict_ct import FEATURES, HU, PATCH, SPACING_ZYX, Clock, cpu_seconds, describe, peak_gb, synthetic_ct


def plans(resampling: str) -> dict[str, Any]:
    stages = len(FEATURES)
    linear = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    chances = ("resample_data_or_seg_to_shape", linear)
    if resampling == "torch":
        chances = ("resample_torch_fornnunet",
                   {"is_seg": False, "force_separate_z": None, "memefficient_seg_resampling": False})  # fmt: skip
    network = {"n_stages": stages, "features_per_stage": FEATURES, "conv_op": "torch.nn.modules.conv.Conv3d",
               "kernel_sizes": [[3, 3, 3]] * stages, "strides": [[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
               "n_conv_per_stage": [2] * stages, "n_conv_per_stage_decoder": [2] * (stages - 1), "conv_bias": True,
               "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
               "norm_op_kwargs": {"eps": 1e-05, "affine": True}, "dropout_op": None, "dropout_op_kwargs": None,
               "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True}}  # fmt: skip
    configuration = {
        "data_identifier": "x", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2, "patch_size": PATCH,
        "median_image_size_in_voxels": [267, 273, 273], "spacing": [1.5, 1.5, 1.5],
        "normalization_schemes": ["CTNormalization"], "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape", "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {**linear, "order": 3},
        "resampling_fn_seg_kwargs": {**linear, "is_seg": True},
        "resampling_fn_probabilities": chances[0], "resampling_fn_probabilities_kwargs": chances[1],
        "architecture": {"network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                         "arch_kwargs": network,
                         "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"]},
        "batch_dice": False,
    }  # fmt: skip
    figures = {"mean": HU["mean"], "std": HU["sd"], "percentile_00_5": HU["low"], "percentile_99_5": HU["high"],
               "min": -1024.0, "max": 3000.0, "median": 90.0}  # fmt: skip
    return {"dataset_name": "Dataset001_CT", "plans_name": "nnUNetPlans", "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2], "original_median_spacing_after_transp": [1.0, 0.8, 0.8],
            "original_median_shape_after_transp": [400, 512, 512], "image_reader_writer": "SimpleITKIO",
            "experiment_planner_used": "ExperimentPlanner", "label_manager": "LabelManager",
            "foreground_intensity_properties_per_channel": {"0": figures},
            "configurations": {"3d_fullres": configuration}}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--classes", type=int, default=25)
    parser.add_argument("--slices", type=int, default=400)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resampling", default="default", choices=["default", "torch"])
    parser.add_argument("--way-back-only", action="store_true")
    args = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS=str(args.threads), nnUNet_compile="f")
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(args.folder)
    import numpy as np
    import torch
    from nnunetv2.inference import export_prediction
    from nnunetv2.inference.data_iterators import PreprocessAdapterFromNpy
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
    from safetensors.torch import save_file

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    labels = {"background": 0, **{f"c{n}": n for n in range(1, args.classes)}}
    dataset = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 10, "file_ending": ".nii.gz"}
    manager = PlansManager(plans(args.resampling))
    conf = manager.get_configuration("3d_fullres")
    net = get_network_from_plans(conf.network_arch_class_name, conf.network_arch_init_kwargs,
                                 conf.network_arch_init_kwargs_req_import, 1, args.classes,
                                 deep_supervision=False).eval()  # fmt: skip
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    save_file(weights, str(args.folder / "weights.safetensors"))
    predictor = nnUNetPredictor(tile_step_size=0.5, use_gaussian=True, use_mirroring=False,
                                perform_everything_on_device=False, device=torch.device("cpu"), verbose=False,
                                allow_tqdm=False)  # fmt: skip
    predictor.manual_initialization(net, manager, conf, [net.state_dict()], dataset, "nnUNetTrainer", None)
    ct, clock = synthetic_ct(args.slices, args.side)[None].astype(np.float32), Clock()
    cases = PreprocessAdapterFromNpy([ct], [None], [{"spacing": list(SPACING_ZYX)}], [None], manager, dataset, conf,
                                     num_threads_in_multithreaded=1)  # fmt: skip
    cpu = cpu_seconds()
    case = clock.timed("prepare", next, cases)
    network = predictor.predict_logits_from_preprocessed_data
    if args.way_back_only:
        logits = torch.randn((args.classes, *case["data"].shape[1:])).half()
        clock.add("windows", 0.0, 0.0)
        cpu = cpu_seconds() - clock.parts["prepare"]["cpu_s"]
    else:
        logits = clock.timed("windows", lambda: network(case["data"]).cpu())
    restore = export_prediction.convert_predicted_logits_to_segmentation_with_correct_shape
    found = clock.timed(
        "way back", restore, logits, manager, conf, predictor.label_manager, case["data_properties"]
    )
    if not args.way_back_only:
        np.save(args.folder / "labels.npy", np.asarray(found).astype(np.uint8))
    total = {
        "cpu_s": round(cpu_seconds() - cpu, 1),
        "wall_s": round(sum(p["wall_s"] for p in clock.parts.values()), 1),
    }
    print(json.dumps({"what": "nnU-Net", **clock.parts, "total": total, "peak_gb": round(peak_gb(), 2),
                      "resampling": args.resampling, "network_grid": list(logits.shape), "machine": describe()}))  # fmt: skip


if __name__ == "__main__":
    main()
