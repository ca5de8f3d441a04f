"""Config files as the release has them: its two default files, and the corpora of its MSR-VTT retrieval recipe."""

DEFAULT_RUN = {
    "checkpoint": "", "output_dir": "none", "gradient_accumulation_steps": 1, "clip_lr": 5e-7, "optim": "adamw", "learning_rate": 1e-4,
    "betas": [0.9, 0.98], "weight_decay": 0.01, "grad_norm": 2.0, "warmup_ratio": 0.1, "resume": False, "seed": 50, "fp16": True,
    "bf16": False, "zero_shot": False, "scheduler": "warmup_linear", "new_lr": 0, "new_params_name": [], "valid_freq": 10,
    "dataset_mix_type": "random", "remove_before_ckpt": True, "first_eval": True, "pretrain_dir": "", "num_train_steps": 0,
    "save_best": False, "pin_mem": True, "vision_resolution": 224, "use_ddp": False, "mode": "training", "log_steps": 100}
DEFAULT_MODEL = {
    "model_type": "vast", "itm_ratio": 0.1, "frozen_vision": False, "frozen_audio": False, "checkpointing": True, "max_caption_len": 40,
    "max_omni_caption_len": 70, "max_subtitle_len": 70, "contra_dim": 512,
    "inherit_keys": ["vision_encoder_type", "audio_encoder_type", "audio_melbins", "audio_target_length"],
    "frame_embedding_type": "adaptive", "vision_resolution": 224, "vision_encoder_type": "evaclip01_giant", "audio_encoder_type": "beats",
    "audio_melbins": 64, "audio_target_length": 1024, "beam_size": 3, "captioner_mode": False, "generate_nums": 1,
    "ret_bidirection_evaluation": False, "itm_rerank_num": 50, "evaluation_type": "evaluation_mm"}
MSRVTT = {"type": "annoindexed", "name": "msrvtt_ret", "vision": "datasets/srcdata/msrvtt/videos",
          "audio": "datasets/srcdata/msrvtt/audios", "vision_transforms": "crop_flip", "vision_format": "video_rawvideo",
          "audio_sample_num": 1, "task": "ret%tvas", "n_workers": 8, "batch_size": 64}
TRAIN = {**MSRVTT, "training": True, "txt": "datasets/annotations/msrvtt/descs_ret_train.json", "vision_sample_num": 8, "epoch": 3.6}
VAL = {**MSRVTT, "training": False, "txt": "datasets/annotations/msrvtt/descs_ret_test.json", "vision_sample_num": 16}
