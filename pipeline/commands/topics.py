"""salience topics: make and list them, and accept what became of them."""

import typer
from rich.table import Table
from rich.text import Text

from pipeline import accept as acceptance
from pipeline import admin
from pipeline.commands.output import JsonOption, command, out, run_async, settings_with, show_json
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


@app.command()
@command
def accept(json: JsonOption = False) -> None:
    """Go on with topics that were made again, or have lost records that were never read; says what is lost.

    Workers refuse to guess here: look at what they say first, stop them, and start them again afterwards. What
    is read for a second time is recognised and counts once.

    Example: salience topics accept --json
    """
    accepted = run_async(acceptance.accept(settings_with()))
    if json:
        show_json({"accepted": accepted})
        return
    for each in accepted:
        partition = "" if each.partition is None else f", partition {each.partition}"
        out.print(f"{each.topic}{partition}: {each.records:,} records {each.what}")
    if not accepted:
        out.print("the topics are as the database knows them; nothing to accept")
