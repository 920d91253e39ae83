"""Keras 3 on the backend that KERAS_BACKEND names: https://keras.io/api."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from functools import cache
from typing import Any

import keras
from task import MOMENTUM, Result, Stopwatch, Task


@cache
def model(task: Task) -> tuple[Any, list[Any]]:
    """Made and compiled once, as it traces its step anew otherwise; and what all its variables begin with."""
    hidden = [keras.layers.Dense(n, activation="relu") for n in task.sizes[1:-1]]
    net = keras.Sequential([keras.Input((task.sizes[0],)), *hidden, keras.layers.Dense(task.sizes[-1])])
    adam = task.rule == "adam"
    rule = keras.optimizers.Adam(task.lr) if adam else keras.optimizers.SGD(task.lr, momentum=MOMENTUM)
    net.compile(optimizer=rule, loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    net.set_weights([p.detach().numpy().T for p in task.net().parameters()])
    rule.build(net.trainable_variables)
    return net, [keras.ops.convert_to_numpy(v).copy() for v in (*net.variables, *rule.variables)]


def bare(task: Task, epochs: int, **more: Any) -> Result:
    net, first = model(replace(task, samples=0))
    for v, value in zip((*net.variables, *net.optimizer.variables), first, strict=True):
        v.assign(value)
    x, t = (v.numpy() for v in task.train())
    with Stopwatch() as watch:
        net.fit(x, t, batch_size=task.batch, epochs=epochs, verbose=0, **more)
    return task.result(watch, epochs, lambda x: net.predict(x.numpy(), batch_size=1000, verbose=0))


def full(task: Task, epochs: int) -> Result:
    """Its TensorBoard callback needs TensorFlow: left out."""
    val = tuple(v[:100].numpy() for v in task.train())
    with tempfile.TemporaryDirectory() as folder:
        save = keras.callbacks.ModelCheckpoint(os.path.join(folder, "last.keras"))
        return bare(task, epochs, validation_data=val, callbacks=[keras.callbacks.EarlyStopping(patience=10**6), save])
