"""What VALOR does with a pretrained run's embeddings of frames and slices of sound."""

import torch

from tests.model.tiny import vast
from tests.model.valor.test_valor_processes import valor


def test_frames_and_slices_beyond_those_trained_get_the_last_embedding():
    model = valor()
    before = {name: getattr(model, name).detach().clone() for name in ("video_frame_embedding", "audio_frame_embedding")}
    model.was_trained_with({})
    assert all(torch.equal(getattr(model, name), rows) for name, rows in before.items())
    model.was_trained_with({"vision": 4, "audio": 1})
    for (name, rows), trained in zip(before.items(), (4, 1)):
        now = getattr(model, name)
        assert torch.equal(now[:, :trained], rows[:, :trained])
        assert torch.equal(now[:, trained:], rows[:, trained - 1 : trained].expand(-1, 32 - trained, -1))
        assert now.requires_grad and now.is_leaf
    model.was_trained_with({"vision": 32, "audio": 40})
    assert len(model.video_frame_embedding.unique(dim=1)[0]) == 4


def test_families_without_such_embeddings_are_told_in_vain():
    model = vast()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    model.was_trained_with({"vision": 1, "audio": 1})
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
