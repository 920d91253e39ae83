"""JAX: https://docs.jax.dev. What compiles does so before the clock."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from task import MOMENTUM, Result, Stopwatch, Task

DRAW = np.random.default_rng(0)
State = Any  # (layers, slots of the rule)


def first_state(task: Task) -> State:
    p = [jnp.array(p.detach().numpy().T) for p in task.net().parameters()]
    layers = list(zip(p[::2], p[1::2], strict=True))
    zeros = partial(jax.tree.map, jnp.zeros_like, layers)
    return layers, (zeros(), zeros(), jnp.zeros(())) if task.rule == "adam" else zeros()


def scores(layers: Any, x: Any) -> Any:
    for w, b in layers[:-1]:
        x = jax.nn.relu(x @ w + b)
    return x @ layers[-1][0] + layers[-1][1]


def loss(layers: Any, x: Any, t: Any) -> Any:
    return -jnp.take_along_axis(jax.nn.log_softmax(scores(layers, x)), t[:, None], axis=1).mean()


def sgd(lr: float, layers: Any, m: Any, g: Any) -> State:
    m = jax.tree.map(lambda m, g: MOMENTUM * m + g, m, g)
    return jax.tree.map(lambda p, m: p - lr * m, layers, m), m


def adam(lr: float, layers: Any, slots: Any, g: Any) -> State:
    m, v, k = slots
    k = k + 1
    m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
    v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
    a, b = 1 - 0.9**k, 1 - 0.999**k
    return jax.tree.map(lambda p, m, v: p - lr * (m / a) / (jnp.sqrt(v / b) + 1e-8), layers, m, v), (m, v, k)


def step_of(task: Task) -> Any:
    rule = adam if task.rule == "adam" else sgd

    def step(state: State, batch: Any) -> tuple[State, Any]:
        value, g = jax.value_and_grad(loss)(state[0], *batch)
        return rule(task.lr, *state, g), value

    return step


@cache
def compiled_step(task: Task) -> Any:
    return jax.jit(step_of(task), donate_argnums=0)


@cache
def compiled_epoch(task: Task, models: int) -> Any:
    """epoch(state, x, t, order), the order being (n,), or (models, n) with a state for each."""
    step, size = step_of(task), task.batch

    def epoch(state: State, x: Any, t: Any, order: Any) -> tuple[State, Any]:
        x, t, full = x[order], t[order], len(order) // size * size
        state, values = jax.lax.scan(step, state, (x[:full].reshape(-1, size, x.shape[1]), t[:full].reshape(-1, size)))
        return step(state, (x[full:], t[full:])) if full < len(order) else (state, values)

    f = epoch if models == 1 else jax.vmap(epoch, in_axes=(0, None, None, 0))
    x, t = arrays(task)
    return jax.jit(f, donate_argnums=0).lower(many(task, models), x, t, orders(task, models)).compile()


@cache
def arrays(task: Task) -> tuple[Any, Any]:
    x, t = task.train()
    return jnp.asarray(x.numpy()), jnp.asarray(t.numpy())


def many(task: Task, models: int) -> State:
    state = first_state(task)
    return state if models == 1 else jax.tree.map(lambda a: jnp.repeat(a[None], models, 0), state)


def orders(task: Task, models: int) -> Any:
    rows = np.stack([DRAW.permutation(task.samples) for _ in range(models)])
    return rows[0] if models == 1 else rows


def step(task: Task, epochs: int) -> Result:
    """jit of a step, called for each batch."""
    f, state, (x, t) = compiled_step(task), first_state(task), (v.numpy() for v in task.train())
    f(first_state(task), (x[: task.batch], t[: task.batch]))
    with Stopwatch() as watch:
        for _ in range(epochs):
            order = orders(task, 1)
            for i in range(0, len(x), task.batch):
                rows = order[i : i + task.batch]
                state, value = f(state, (x[rows], t[rows]))
        value.block_until_ready()
    return task.result(watch, epochs, lambda x: np.asarray(scores(state[0], x.numpy())))


def scan(task: Task, epochs: int, models: int = 1) -> Result:
    """jit of a scan over an epoch; of many models at once by vmap."""
    f, state, (x, t) = compiled_epoch(task, models), many(task, models), arrays(task)
    with Stopwatch() as watch:
        for _ in range(epochs):
            state, value = f(state, x, t, orders(task, models))
        value.block_until_ready()
    return task.result(watch, epochs, lambda x: np.asarray(scores(state[0], x.numpy())), models)
