"""What `--task-help` prints; a test runs the example in it."""

EXAMPLE = """\
def train(run):                                  # my_task.py
    model = MyModel().to(run.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=run.config.lr)
    run.drive(model)                             # every dropout site of the model follows the run's schedule
    run.keep(model=model, optimizer=optimizer)   # what a checkpoint holds; restored here when the run goes on
    for step in run.steps():                     # from where it stood; sets the rate before each step
        loss = update(model, optimizer, next_batch(run.generator))
        if run.is_due(step):                     # the first step, every --eval-interval steps, and the end
            run.report(val_loss=validate(model), train_loss=loss)
"""
HELP = f"""\
Your own task is a Python function that makes the data and the model, and trains. It takes one argument, the run:

{EXAMPLE}
    python -m study.search --task my_task.py:train --steps 5000 --set lr=1e-3

Draw each batch within its step, from run.generator, so that all runs see the same data and can be continued.
run has also: seed, device, config (--set key=value), schedule, dropout_rate, folder. study/tasks/README.md says more.
"""
