"""Training: the loop, its state, and what callbacks may do.

trainer        Trainer: fit, validate, test, predict      settings       its arguments, checked
session        what one fit holds; hooks receive it       progress       epoch, step, why it stopped
loop           epochs and steps                           setup          everything before the first step
callback       the hooks, and when each is called         engines/       how steps are taken
evaluation     loss, metrics and outputs of a split       predictions_csv  predictions as text
capture        a session as plain values, and back        random_states, environment, same_data: parts of it
description    a Python fit as a configuration            arguments      objects of a wrong kind
replay         earlier steps once more                    nonfinite      where a number is not finite
run_folder     the files of a run                         summary        summary.json
signals        SIGINT and SIGTERM                         threads, device
"""

from .callback import Callback as Callback
from .session import Session as Session
from .trainer import Trainer as Trainer
