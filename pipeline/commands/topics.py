"""salience topics: make and list them."""

import typer
from rich.table import Table
from rich.text import Text

from pipeline import admin
from pipeline.commands.output import JsonOption, command, out, settings_with, show_json
from pipeline.topics import Topics

app = typer.Typer(no_args_is_help=True, help="The topics on the broker.")


@app.command()
@command
def create(json: JsonOption = False) -> None:
    """Make the topics that are missing.

    Example: SALIENCE_BROKER__SERVERS=localhost:9092 salience topics create
    """
    made, there = admin.create_topics(settings_with().broker)
    if json:
        show_json({"created": made, "existing": there})
        return
    for name in made:
        out.print(f"made  {name}")
    for name in there:
        out.print(f"there {name}")


@app.command("list")
@command
def list_(json: JsonOption = False) -> None:
    """List our topics as the broker has them.

    Example: salience topics list --json
    """
    broker = settings_with().broker
    names = Topics(broker.prefix).all
    with admin.admin(broker) as client:
        found = admin.existing(client, names)
    if json:
        show_json({"topics": list(found.values()), "missing": [name for name in names if name not in found]})
        return
    table = Table("topic", "partitions", "replicas", "incarnation")
    for name in names:
        topic = found.get(name)
        cells = (
            (str(topic.partitions), str(topic.replication), topic.incarnation) if topic else ("missing", "", "")
        )
        table.add_row(*map(Text, (name, *cells)))
    out.print(table)
