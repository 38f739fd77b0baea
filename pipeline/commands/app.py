"""All commands, put together."""

import typer

from pipeline.commands import (
    alerts,
    db,
    dlq,
    entities,
    evaluate,
    forget,
    look,
    model,
    rules,
    run,
    runs,
    texts,
    topics,
    train,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Salience watches streams of text and says what deserves attention, and why.",
)
run.register(app)
texts.register(app)
look.register(app)
forget.register(app)
evaluate.register(model.app)
app.add_typer(alerts.app, name="alerts")
app.add_typer(topics.app, name="topics")
app.add_typer(runs.app, name="runs")
app.add_typer(dlq.app, name="dlq")
app.add_typer(db.app, name="db")
app.add_typer(rules.app, name="rules")
train.register(model.app)
app.add_typer(entities.app, name="entities")
app.add_typer(model.app, name="model")
