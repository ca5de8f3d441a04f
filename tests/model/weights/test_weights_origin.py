"""A checkpoint of another family, or of other settings, is told by its run's config before a model is built, or by its tensors."""

import dataclasses
import json
import logging

import pytest
import torch

from omnivast.config.schema import ModelConfig
from omnivast.model.gram.model import DEPTH_HEAD
from omnivast.model.interface import ModelError
from omnivast.model.weights import WeightsError, load_weights
from omnivast.model.weights.origin import NEVER_OTHERWISE, TRAINED_FOR, check_origin, families_of
from omnivast.scripts.tools import convert_checkpoint
from tests.model.tiny import gram, vast
from tests.model.valor.test_valor_processes import CONFIG, valor


def saved(state, path, released=None):
    state = state if isinstance(state, dict) else state.state_dict()
    torch.save({released(name): tensor for name, tensor in state.items()} if released else state, path)
    return path


def refusal(model, path):
    with pytest.raises(WeightsError) as error:
        load_weights(model, path)
    return str(error.value).splitlines()[0]


@pytest.mark.parametrize("released", [False, True])
def test_a_checkpoint_of_another_family_is_named(tmp_path, released):
    def file(model, name):
        return saved(model, tmp_path / name, model.names.released if released else None)

    of_vast, of_valor = file(vast(), "vast.pt"), file(valor(), "valor.pt")
    assert refusal(valor(), of_vast) == (
        f"{of_vast}: it is a checkpoint of model_type vast, but model_cfg.model_type is valor")
    for model, name in ((vast(), "vast"), (gram(), "gram")):
        assert refusal(model, of_valor) == f"{of_valor}: it is a checkpoint of model_type valor, but model_cfg.model_type is {name}"


def test_gram_reads_checkpoints_of_vast_and_vast_those_of_gram_as_it_saves_them(tmp_path):
    """One has the other's parameters. What the released GRAM has besides is of use to neither, but only GRAM leaves it out."""
    one, other = vast(seed=1), gram(seed=2)
    load_weights(other, saved(one, tmp_path / "vast.pt"))
    assert all(torch.equal(tensor, one.state_dict()[name]) for name, tensor in other.state_dict().items())
    load_weights(vast(), saved(other, tmp_path / "gram.pt"))
    released = saved({**other.state_dict(), f"{DEPTH_HEAD}linear.weight": torch.zeros(2, 2)}, tmp_path / "released.pt")
    assert load_weights(gram(), released).dropped == (f"{DEPTH_HEAD}linear.weight",)
    assert "is a checkpoint of model_type gram, but model_cfg.model_type is vast" in refusal(vast(), released)


def test_every_family_is_told_by_names_that_no_other_has():
    states = {"vast": vast().state_dict(), "valor": valor().state_dict(), "coarse": valor(contra_type="coarse").state_dict()}
    assert {name: families_of(state) for name, state in states.items()} == {"vast": ["vast"], "valor": ["valor"], "coarse": ["valor"]}
    assert families_of(["some.weight"]) == []


@pytest.mark.parametrize("changes, told", [
    ({"contra_type": "coarse"}, "contra_type coarse (here fine)"),
    ({"cross_attn_type": "audio_video"}, "cross_attn_type va_parallel, video_audio or audio_video (here va_concate)"),
    ({"contra_dim": 8}, "contra_dim 8 (here 16)"),
    ({"text_encoder_cfg": {**CONFIG.text_encoder_cfg, "hidden_size": 16}}, "text_encoder_cfg.hidden_size 16 (here 32)"),
    ({"audio_encoder_type": None}, "audio_encoder_type null (here set)"),
])
def test_a_checkpoint_of_other_settings_names_them(tmp_path, changes, told):
    path = saved(valor(**changes), tmp_path / "other.pt")
    assert refusal(valor(), path) == f"{path}: it was made with another model_cfg: {told}"


def test_coarse_with_and_without_late_fusion(tmp_path):
    path = saved(valor(contra_type="coarse", late_fusion=True), tmp_path / "late.pt")
    assert refusal(valor(contra_type="coarse"), path).endswith("another model_cfg: late_fusion True (here False)")


def test_a_vast_of_another_width(tmp_path):
    path = saved(vast(contra_dim=8), tmp_path / "narrow.pt")
    assert "another model_cfg: contra_dim 8 (here 16)" in refusal(vast(), path)


# --------------------------------------------------------------------------------------------------------- the run beside it


def of_run(folder, **made):
    for name in ("log", "ckpt"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "log" / "hps.json").write_text(json.dumps({"model_cfg": made}))
    return folder / "ckpt" / "model_step_1.pt"


def check(weights, testing=True, partly=False, **now):
    check_origin(weights, dataclasses.replace(ModelConfig(), **now), testing=testing, partly=partly)


def test_the_run_beside_a_checkpoint_says_of_which_family_it_is(tmp_path):
    weights = of_run(tmp_path, model_type="vast")
    with pytest.raises(ModelError) as error:
        check(weights, model_type="valor")
    assert str(error.value) == (f"model_cfg.model_type is valor, but {weights} is of a run with model_type vast ({tmp_path}/log/hps.json); "
                                "set --model_type vast, or start from weights of a valor")
    check(weights, model_type="valor", partly=True)  # some of its towers, on purpose: what is missing is listed where it is read
    check(weights)


def test_gram_from_vast_is_told_where_it_is_tested(tmp_path, caplog):
    caplog.set_level(logging.INFO, "omnivast")
    for theirs, own in (("vast", "gram"), ("gram", "vast")):
        for testing, level in ((True, "WARNING"), (False, "INFO")):
            caplog.clear()
            check(of_run(tmp_path, model_type=theirs), testing=testing, model_type=own)
            (record,) = caplog.records
            assert record.levelname == level and f"model_type {theirs}, now {own}" in record.message


def test_settings_that_no_tensor_shows_are_told(tmp_path, caplog):
    made = {"model_type": "valor", "use_task_prompt": True, "late_fusion": True, "vision_resolution": 32}
    check(of_run(tmp_path, **made), model_type="valor", late_fusion=True)
    assert len(caplog.messages) == 1 and "use_task_prompt true, now false; what is tested is not what was trained" in caplog.text
    with pytest.raises(ModelError, match='cross_attn_type "video_audio", now "audio_video"; set it as it was'):
        check(of_run(tmp_path, model_type="valor", cross_attn_type="video_audio"), model_type="valor", cross_attn_type="audio_video")


def test_an_encoder_of_texts_that_would_be_left_out_is_told(tmp_path, caplog):
    """A release's checkpoint has it as a copy of the decoder; here it is not."""
    weights = saved(valor(share_txt_and_multimodal=False), of_run(tmp_path, model_type="valor", share_txt_and_multimodal=False))
    assert any(name.startswith("txt_encoder.") for name in load_weights(valor(), weights).dropped)
    check(weights, model_type="valor")
    assert "share_txt_and_multimodal false, now true; what is tested is not what was trained" in caplog.text


def test_a_run_of_the_released_valor_is_compared_by_our_names(tmp_path, caplog):
    weights = of_run(tmp_path)
    (tmp_path / "log" / "hps.json").write_text(json.dumps({
        "video_resolution": 224, "video_encoder_type": "videoswin_base_k600_22k", "caption_type": "lm", "data_cfg": {}}))
    with pytest.raises(ModelError, match="model_cfg.model_type is vast, but .* is of a run with model_type valor"):
        check(weights)
    check(weights, model_type="valor", audio_target_length=512, txt_encoder_type="clip_vit_base_16")
    assert 'caption_type "lm", now "unimlm"; what is tested is not' in caplog.text


@pytest.mark.parametrize("content", [None, "{", '{"model_type": "valor"}', '{"model_cfg": {"model_type": "of_another_program"}}'])
def test_without_a_config_of_the_run_nothing_is_compared(tmp_path, content, caplog):
    if content is not None:
        (tmp_path / "log").mkdir()
        (tmp_path / "log" / "hps.json").write_text(content)
    check(tmp_path / "ckpt" / "x.pt", model_type="of_another_program" if content and "another" in content else "vast")
    assert not caplog.messages


def test_the_settings_compared_exist():
    assert set(NEVER_OTHERWISE) <= set(TRAINED_FOR) <= {field.name for field in dataclasses.fields(ModelConfig)}


def test_conversion_refuses_another_family(tmp_path, capsys):
    path = saved(valor(), tmp_path / "valor.pt")
    assert convert_checkpoint.main([str(path), str(tmp_path / "out.pt")]) == 2
    assert "is a checkpoint of model_type valor; give --model_type valor" in capsys.readouterr().err
    assert not (tmp_path / "out.pt").exists()
    assert convert_checkpoint.main([str(path), str(tmp_path / "out.pt"), "--model_type", "valor"]) == 0


