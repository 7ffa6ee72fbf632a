"""What is seen of an optimizer's updates: skips decided on the device, learning rates, wrappers."""

import pytest
import torch

from ckptlab.record.update_watch import UpdateWatch
from ckptlab.store.read.reader import open_store
from tests.record.loops import record, small


@pytest.mark.parametrize("fused", [True, False])
def test_an_update_that_a_scaler_skips_is_marked_for_fused_optimizers_too(tmp_path, fused):
    """A GradScaler always steps a fused optimizer, which skips the update on the device."""
    model, _ = small()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    weights = []
    with record(tmp_path, model, optimizer) as recorder:
        for step in range(8):
            optimizer.zero_grad()
            loss = model(torch.randn(8, 3)).square().mean() * (torch.inf if step in (0, 5) else 1)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            recorder.step(loss=loss)
            weights.append(model[0].weight.detach().clone())
    assert torch.equal(weights[5], weights[4])
    assert open_store(tmp_path).small("skipped").tolist() == [i in (1, 6) for i in range(9)]


@pytest.mark.filterwarnings("ignore:no gradient was there")
def test_skipped_may_be_a_tensor(tmp_path):
    model, _ = small()
    with record(tmp_path, model, None) as recorder:
        for value in (0.0, 1.0, 0.0, 0.0, 0.0, 1.0):
            recorder.step(skipped=torch.tensor([value]))
    assert open_store(tmp_path).small("skipped").tolist() == [i in (2, 6) for i in range(7)]


@pytest.mark.filterwarnings("ignore:no gradient was there")
def test_updates_that_no_hook_sees_are_not_skipped_where_a_graph_may_make_them(tmp_path):
    """As under a user's CUDA graph, which needs a capturable optimizer and runs no hook."""
    model, _ = small()
    rate = torch.tensor(0.5)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, capturable=True, foreach=False)
    with record(tmp_path, model, optimizer) as recorder:
        for _ in range(3):
            recorder.step()
            rate.mul_(0.5)
    stored = open_store(tmp_path)
    assert stored.small("skipped").tolist() == [False] * 4
    assert stored.small("lr")[1:].tolist() == [0.5, 0.25, 0.125]


def test_a_rate_that_is_a_tensor_is_that_of_the_update():
    model, _ = small()
    rate = torch.tensor(0.5)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    watch = UpdateWatch(lambda: False)
    watch.attach({"": optimizer}, lambda _: None)
    model(torch.randn(8, 3)).sum().backward()
    optimizer.step()
    rate.fill_(0.1)  # a scheduler moves on in place
    assert watch.ahead
    assert watch.finish_step().lr == 0.5
    assert not watch.ahead
    watch.remove()
    optimizer.step()
    assert not watch.ahead


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_updates_of_a_users_cuda_graph_are_recorded_as_updates(tmp_path):
    model, _ = small()
    model.cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(8, 3, device="cuda")

    def update():
        optimizer.zero_grad(set_to_none=False)
        model(x).square().mean().backward()
        optimizer.step()

    with record(tmp_path, model, optimizer) as recorder:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                update()
                recorder.step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            update()
        for _ in range(5):
            graph.replay()
            recorder.step()
    stored = open_store(tmp_path)
    assert not stored.small("skipped").any()
    assert stored.small("lr")[1:] == pytest.approx(0.1)
