"""MLP classifiers, regressors, multi-task networks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.zoo import steps
from benchmarks.zoo.entry import Entry, Parts

FEATURES, CLASSES = 6, 4


# --- an MLP classifier -----------------------------------------------------------------------------------------------


class Mlp(nn.Module):
    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(FEATURES, 32), nn.ReLU(), nn.Dropout(dropout), nn.Linear(32, 32), nn.ReLU())
        self.head = nn.Linear(32, CLASSES)

    def forward(self, x):
        return self.head(self.body(x))


def labelled_rows():
    return torch.randn(8, FEATURES), torch.randint(0, CLASSES, (8,))


def adam(model):
    return torch.optim.Adam(model.parameters(), lr=1e-2)


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def mlp(**changes) -> Parts:
    return {
        "model": Mlp,
        "batch": labelled_rows,
        "loss": F.cross_entropy,
        "optimizer": adam,
        "step": steps.right(F.cross_entropy),
        "task": "classification",
        "classes": CLASSES,
        "output_shape": ("N", CLASSES),
    } | changes


def mlp_with(make_step, **changes) -> Parts:
    return mlp(step=make_step(F.cross_entropy), **changes)


def off_by_one(logits, labels):
    return F.cross_entropy(logits, (labels + 1) % logits.shape[-1])


def cross_entropy_of_probabilities(logits, labels):
    return F.cross_entropy(logits.softmax(-1), labels)


def summed_cross_entropy(logits, labels):
    return F.cross_entropy(logits, labels, reduction="sum")


def negated_likelihood_forgotten(logits, labels):
    return logits.log_softmax(-1).gather(1, labels[:, None]).mean()


def likelihood_without_log(logits, labels):
    return F.nll_loss(logits.softmax(-1), labels)


def mean_over_a_single_row(logits, labels):
    return F.cross_entropy(logits[:1], labels[:1])


class SoftmaxInside(Mlp):
    def forward(self, x):
        return super().forward(x).softmax(-1)


class SoftmaxOverRows(Mlp):
    def forward(self, x):
        return super().forward(x).log_softmax(0)


class UnusedLayer(Mlp):
    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Linear(32, 32)  # forgotten in forward

    def forward(self, x):
        return self.head(self.body(x))


class ReadsFiveOfSixColumns(Mlp):
    def __init__(self) -> None:
        super().__init__()
        self.body[0] = nn.Linear(FEATURES - 1, 32)

    def forward(self, x):
        return self.head(self.body(x[:, 1:]))


class DeadUnits(Mlp):
    def __init__(self) -> None:
        super().__init__()
        nn.init.constant_(self.body[3].bias, -50.0)


class ZeroInitialised(Mlp):
    def __init__(self) -> None:
        super().__init__()
        for p in self.parameters():
            nn.init.zeros_(p)


class LayersInAPlainList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Linear(FEATURES, 32), nn.Linear(32, 32)]
        self.head = nn.Linear(32, CLASSES)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).relu()
        return self.head(x)


class SharedDefaultArgument(nn.Module):
    def __init__(self, body=nn.Linear(FEATURES, 32)) -> None:  # noqa: B008 - the bug
        super().__init__()
        self.body = body
        self.head = nn.Linear(32, CLASSES)

    def forward(self, x):
        return self.head(self.body(x).relu())


class ClampsTheInputInPlace(Mlp):
    def forward(self, x):
        return super().forward(x.clamp_(-1, 1))


class NoisyAlways(Mlp):
    def forward(self, x):
        return super().forward(x + 0.1 * torch.randn_like(x))


class HugeInitialisation(Mlp):
    def __init__(self) -> None:
        super().__init__()
        nn.init.normal_(self.head.weight, std=10.0)


class FrozenBody(Mlp):
    def __init__(self) -> None:
        super().__init__()
        for p in self.body.parameters():
            p.requires_grad = False


class NoGradBody(Mlp):
    def forward(self, x):
        with torch.no_grad():
            features = self.body(x)
        return self.head(features)


class CountsCalls(Mlp):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * (1 + 0.01 * self.calls)


class StandardisesByBatch(Mlp):
    def forward(self, x):
        return super().forward((x - x.mean(0)) / (x.std(0) + 1e-6))


class HalfPrecisionOutput(Mlp):
    def forward(self, x):
        return super().forward(x).half()


def optimizer_of_another_model(model):
    del model
    return torch.optim.Adam(Mlp().parameters(), lr=1e-2)


def optimizer_of_the_head(model):
    return torch.optim.Adam(model.head.parameters(), lr=1e-2)


def optimizer_before_replacing_the_head(model):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    model.head = nn.Linear(32, CLASSES)
    return optimizer


def optimizer_that_maximises(model):
    return torch.optim.Adam(model.parameters(), lr=1e-2, maximize=True)


def learning_rate_of_ten(model):
    return torch.optim.SGD(model.parameters(), lr=10.0)


def decaying(optimizer):
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.995)


def evaluates_well(model, batch):
    model.eval()
    with torch.no_grad():
        inputs, targets = batch
        accuracy = (model(inputs).argmax(-1) == targets).double().mean().item()
    model.train()
    return accuracy


def evaluates_in_training_mode(model, batch):
    with torch.no_grad():
        inputs, targets = batch
        return F.cross_entropy(model(inputs), targets).item()


def mean_loss(model, batch):
    model.eval()
    with torch.no_grad():
        inputs, targets = batch
        value = F.cross_entropy(model(inputs), targets).item()
    model.train()
    return value


def leaves_eval_mode_on(model, batch):
    model.eval()
    with torch.no_grad():
        inputs, targets = batch
        return F.cross_entropy(model(inputs), targets).item()


def trusting_step(loss):
    """A step that relies on its caller for the mode: common, and right as long as validation restores it."""

    def step(model, optimizer, batch):
        inputs, targets = batch
        optimizer.zero_grad()
        value = loss(model(inputs), targets)
        value.backward()
        optimizer.step()
        return value.item()

    return step


def learns_while_evaluating(model, batch):
    model.eval()
    inputs, targets = batch
    value = F.cross_entropy(model(inputs), targets)
    value.backward()  # pasted from the training loop; the next step applies it too
    model.train()
    return value.item()


# --- regression ------------------------------------------------------------------------------------------------------


class Regressor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(FEATURES, 64), nn.Tanh(), nn.Linear(64, 1))

    def forward(self, x):
        return self.net(x)


class FlatRegressor(Regressor):
    def forward(self, x):
        return self.net(x).squeeze(-1)


def measured_rows():
    x = torch.randn(8, FEATURES)
    return x, torch.randn(8)


def measured_columns():
    x = torch.randn(8, FEATURES)
    return x, torch.randn(8, 1)


def regression(**changes) -> Parts:
    return {
        "model": FlatRegressor,
        "batch": measured_rows,
        "loss": F.mse_loss,
        "optimizer": adam,
        "step": steps.right(F.mse_loss),
        "task": "regression",
        "output_shape": ("N",),
    } | changes


def regression_columns(**changes) -> Parts:
    return regression(model=Regressor, batch=measured_columns, output_shape=("N", 1)) | changes


def column_loss(output, target):
    return F.mse_loss(output, target.reshape(output.shape))


def broadcasting_mse(output, target):
    return ((output - target) ** 2).mean()


def regression_loss(loss, **changes) -> Parts:
    return regression(loss=loss, step=steps.right(loss), **changes)


def signed_difference(output, target):
    return (output - target).mean()


def truncated_targets(output, target):
    return F.mse_loss(output, target.long().float())


def root_mean_square(output, target):
    return torch.sqrt(F.mse_loss(output, target))


def root_mean_square_with_epsilon(output, target):
    return torch.sqrt(F.mse_loss(output, target) + 1e-12)


def sum_of_squares(output, target):
    return F.mse_loss(output, target, reduction="sum")


def detached_output(output, target):
    return F.mse_loss(output.detach(), target) + 0.0 * output.sum()


class RoundedOutput(FlatRegressor):
    def forward(self, x):
        return super().forward(x).mul(10).round().div(10)


class BatchCentred(FlatRegressor):
    def forward(self, x):
        out = super().forward(x)
        return out - out.mean()


class GaussianRegressor(nn.Module):
    """Predicts a mean and a log variance; its loss may be negative and that is right."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(FEATURES, 64), nn.Tanh(), nn.Linear(64, 2))

    def forward(self, x):
        return self.net(x)


def gaussian_likelihood(output, target):
    mean, log_variance = output.unbind(-1)
    return 0.5 * (log_variance + (target - mean) ** 2 / log_variance.exp()).mean()


def gaussian_likelihood_without_brackets(output, target):
    mean, log_variance = output.unbind(-1)
    return 0.5 * (log_variance - (target - mean) ** 2 / log_variance.exp()).mean()


def gaussian(loss=gaussian_likelihood, **changes) -> Parts:
    def calibrated(targets):
        return torch.stack([targets, torch.full_like(targets, -2.0)], -1)

    return {
        "model": GaussianRegressor,
        "batch": measured_rows,
        "loss": loss,
        "optimizer": adam,
        "step": steps.right(loss),
        "perfect": calibrated,
        "nonnegative": False,
        "output_shape": ("N", 2),
    } | changes


# --- two tasks on one trunk ------------------------------------------------------------------------------------------


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(FEATURES, 48), nn.ReLU())
        self.colour = nn.Linear(48, CLASSES)
        self.shape = nn.Linear(48, CLASSES)

    def forward(self, x):
        features = self.trunk(x)
        return self.colour(features), self.shape(features)


class SecondHeadDetached(TwoHeads):
    def forward(self, x):
        features = self.trunk(x)
        return self.colour(features), self.shape(features.detach())


class SameHeadTwice(TwoHeads):
    def forward(self, x):
        features = self.trunk(x)
        return self.colour(features), self.colour(features)


def doubly_labelled_rows():
    return torch.randn(8, FEATURES), torch.randint(0, CLASSES, (8, 2))


def both_losses(outputs, targets):
    return F.cross_entropy(outputs[0], targets[:, 0]) + F.cross_entropy(outputs[1], targets[:, 1])


def swapped_losses(outputs, targets):
    return F.cross_entropy(outputs[0], targets[:, 1]) + F.cross_entropy(outputs[1], targets[:, 0])


def first_loss_only(outputs, targets):
    return F.cross_entropy(outputs[0], targets[:, 0])


def subtracted_losses(outputs, targets):
    return F.cross_entropy(outputs[0], targets[:, 0]) - F.cross_entropy(outputs[1], targets[:, 1])


def both_right(targets):
    return tuple(20.0 * F.one_hot(targets[:, i], CLASSES).float() for i in range(2))


def multitask(loss=both_losses, **changes) -> Parts:
    return {
        "model": TwoHeads,
        "batch": doubly_labelled_rows,
        "loss": loss,
        "optimizer": adam,
        "step": steps.right(loss),
        "perfect": both_right,
        "output_shape": (("N", CLASSES), ("N", CLASSES)),
    } | changes


def clipping(make_step) -> Parts:
    return mlp(step=make_step(F.cross_entropy, 0.1), optimizer=sgd, clip_norm=0.1)


def accumulating(make_step, **changes) -> Parts:
    return mlp(model=lambda: Mlp(dropout=0.0), step=make_step(F.cross_entropy, 4), optimizer=sgd, **changes)


def scheduling(make_step) -> Parts:
    return mlp_with(make_step, scheduler=decaying)


def evaluating(evaluate, **changes) -> Parts:
    return mlp(evaluate=evaluate, step=trusting_step(F.cross_entropy), **changes)


def columns_with(loss) -> Parts:
    return regression(model=Regressor, output_shape=("N", 1), loss=loss, step=steps.right(loss))


def _row(name, bug, mutant, *, kind="mlp", correct=mlp) -> Entry:
    return Entry(name=name, kind=kind, bug=bug, correct=correct, mutant=mutant)


ENTRIES = [
    *(
        _row(make.__name__.replace("_", "-"), bug, lambda make=make: mlp_with(make))
        for make, bug in [
            (steps.missing_zero_grad, "gradients of earlier batches pile up"),
            (steps.zero_grad_after_backward, "zero_grad between backward and step throws the gradients away"),
            (steps.zero_grad_on_the_wrong_object, "zero_grad on one block only"),
            (steps.flipped_sign, "the step climbs the loss"),
            (steps.no_optimizer_step, "optimizer.step() is missing"),
            (steps.step_before_backward, "every step applies the gradients of the batch before"),
            (steps.rewrapped_loss, "the loss is wrapped into a new tensor: backward reaches nothing"),
            (steps.eval_mode_while_training, "trains in eval mode: no dropout, no batch statistics"),
            (steps.backward_twice, "backward called twice: gradients doubled"),
            (steps.stale_batch, "always trains on the first batch"),
            (steps.running_total, "adds the loss to a running total and reports that"),
            (steps.fresh_optimizer_every_step, "a new Adam every step: moments never build up"),
            (steps.normalises_the_callers_batch, "normalises the caller's tensors in place"),
            (steps.half_the_batch, "uses only half of each batch"),
        ]
    ),
    *(
        _row(f"mlp-{loss.__name__.replace('_', '-')}", bug, lambda loss=loss: mlp(loss=loss, step=steps.right(loss)))
        for loss, bug in [
            (off_by_one, "labels shifted by one"),
            (cross_entropy_of_probabilities, "softmax before cross entropy"),
            (summed_cross_entropy, "sum where the mean was meant: the learning rate depends on the batch size"),
            (negated_likelihood_forgotten, "log likelihood without the minus"),
            (likelihood_without_log, "nll_loss on probabilities instead of log probabilities"),
            (mean_over_a_single_row, "only the first row counts"),
        ]
    ),
    *(
        _row(f"mlp-{name}", bug, lambda model=model: mlp(model=model))
        for name, model, bug in [
            ("softmax-inside", SoftmaxInside, "the model ends in softmax and the loss takes logits"),
            ("softmax-over-rows", SoftmaxOverRows, "normalises over the batch dimension"),
            ("unused-layer", UnusedLayer, "a layer is defined and never called"),
            ("reads-five-of-six-columns", ReadsFiveOfSixColumns, "an off-by-one slice drops a feature"),
            ("dead-units", DeadUnits, "a layer's ReLUs never fire"),
            ("zero-initialised", ZeroInitialised, "all weights start at zero and stay symmetric"),
            ("layers-in-a-plain-list", LayersInAPlainList, "layers in a list are not registered, trained or saved"),
            ("shared-default-argument", SharedDefaultArgument, "two instances share a layer"),
            ("clamps-the-input-in-place", ClampsTheInputInPlace, "changes the caller's tensor"),
            ("noisy-always", NoisyAlways, "training noise is added in eval mode as well"),
            ("huge-initialisation", HugeInitialisation, "initial loss far above ln C"),
            ("frozen-body", FrozenBody, "requires_grad left off from an experiment"),
            ("no-grad-body", NoGradBody, "a no_grad block around trainable layers"),
            ("counts-calls", CountsCalls, "output depends on how often the model was called"),
            ("standardises-by-batch", StandardisesByBatch, "normalises with statistics of the batch at inference"),
            ("half-precision-output", HalfPrecisionOutput, "returns float16 from a float32 model"),
        ]
    ),
    *(
        _row(f"mlp-{make.__name__.replace('_', '-')}", bug, lambda make=make: mlp(optimizer=make))
        for make, bug in [
            (optimizer_of_another_model, "the optimiser holds another model's parameters"),
            (optimizer_of_the_head, "the optimiser was given only part of the parameters"),
            (optimizer_before_replacing_the_head, "a layer is replaced after the optimiser was built"),
            (optimizer_that_maximises, "maximize=True left on"),
            (learning_rate_of_ten, "a learning rate that diverges"),
        ]
    ),
    *(
        _row(name, bug, lambda make=make: clipping(make), correct=lambda: clipping(steps.clipped))
        for name, make, bug in [
            ("clipped-after-the-step", steps.clipped_after_the_step, "clipping after optimizer.step() does nothing"),
            ("clipped-before-backward", steps.clipped_before_backward, "clipping before backward clips nothing"),
            ("clips-one-layer-only", steps.clips_one_layer_only, "the norm of one layer only is clipped"),
        ]
    ),
    *(
        _row(name, bug, lambda make=make: scheduling(make), correct=lambda: scheduling(steps.scheduled))
        for name, make, bug in [
            ("scheduler-forgotten", steps.scheduler_forgotten, "the schedule never advances"),
            ("scheduler-before-optimizer", steps.scheduler_before_optimizer, "skips the first learning rate"),
            ("scheduler-twice", steps.scheduler_twice, "the schedule runs at twice the pace"),
        ]
    ),
    *(
        _row(name, bug, lambda make=make: accumulating(make), correct=lambda: accumulating(steps.accumulating))
        for name, make, bug in [
            ("accumulating-undivided", steps.accumulating_undivided, "micro-batch losses summed, not averaged"),
            ("accumulating-but-zeroing", steps.accumulating_but_zeroing, "only the last micro-batch counts"),
            ("accumulating-but-stepping", steps.accumulating_but_stepping, "steps on every micro-batch"),
        ]
    ),
    _row(
        "accumulating-across-calls-off-by-one",
        "the first micro-batch of each window is applied alone",
        lambda: accumulating(steps.accumulating_across_calls_off_by_one, accumulate=4),
        correct=lambda: accumulating(steps.accumulating_across_calls, accumulate=4),
    ),
    _row(
        "evaluates-in-training-mode",
        "validation runs with dropout on",
        lambda: evaluating(evaluates_in_training_mode),
        correct=lambda: evaluating(mean_loss),
    ),
    _row(
        "leaves-eval-mode-on",
        "training goes on in eval mode after the first validation",
        lambda: evaluating(leaves_eval_mode_on),
        correct=lambda: evaluating(evaluates_well),
    ),
    _row(
        "learns-while-evaluating",
        "validation calls backward and leaves gradients behind",
        lambda: evaluating(learns_while_evaluating),
        correct=lambda: evaluating(mean_loss),
    ),
    *(
        _row(name, bug, mutant, kind="regression", correct=correct)
        for name, bug, mutant, correct in [
            (
                "regression-broadcasts",
                "(N, 1) against (N,): every prediction is compared with every target",
                lambda: columns_with(broadcasting_mse),
                lambda: columns_with(column_loss),
            ),
            (
                "regression-signed-difference",
                "the mean difference without abs or square",
                lambda: regression_loss(signed_difference),
                regression,
            ),
            (
                "regression-truncated-targets",
                "targets cast to integers",
                lambda: regression_loss(truncated_targets),
                regression,
            ),
            (
                "regression-root-without-epsilon",
                "the gradient of sqrt is infinite at zero",
                lambda: regression_loss(root_mean_square, separable=False),
                lambda: regression_loss(root_mean_square_with_epsilon, separable=False),
            ),
            (
                "regression-sum-of-squares",
                "sum where the mean was meant",
                lambda: regression_loss(sum_of_squares),
                regression,
            ),
            (
                "regression-detached-output",
                "the prediction is detached inside the loss",
                lambda: regression_loss(detached_output),
                regression,
            ),
            (
                "regression-rounded-output",
                "rounding inside the model kills the gradient",
                lambda: regression(model=RoundedOutput),
                regression,
            ),
            (
                "regression-batch-centred",
                "predictions are centred over the batch",
                lambda: regression_columns(model=lambda: nn.Sequential(BatchCentred(), nn.Unflatten(0, (-1, 1)))),
                regression_columns,
            ),
            (
                "gaussian-sign-of-the-residual",
                "the squared error is subtracted from the likelihood",
                lambda: gaussian(gaussian_likelihood_without_brackets),
                gaussian,
            ),
        ]
    ),
    *(
        _row(name, bug, mutant, kind="multi-task", correct=multitask)
        for name, bug, mutant in [
            (
                "multitask-detached-head",
                "one head's gradient never reaches the trunk",
                lambda: multitask(model=SecondHeadDetached),
            ),
            ("multitask-same-head-twice", "both outputs come from one head", lambda: multitask(model=SameHeadTwice)),
            ("multitask-swapped-losses", "targets of the two tasks are swapped", lambda: multitask(swapped_losses)),
            ("multitask-one-loss-forgotten", "one task is never trained", lambda: multitask(first_loss_only)),
            ("multitask-subtracted", "one task's loss is subtracted", lambda: multitask(subtracted_losses)),
        ]
    ),
]
