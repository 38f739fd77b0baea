"""A worker's assignment without a broker, for the tests of both of its files."""

from helpers import Clock

from pipeline.assignment import Assignment
from pipeline.compose import Pipeline

TOPIC = "salience.news"
ONE = (TOPIC, 0)


def worker(pipeline: Pipeline, clock: Clock, name: str = "w", reset: str = "earliest") -> Assignment:
    settings = pipeline.settings
    settings = settings.model_copy(update={"broker": settings.broker.model_copy(update={"offset_reset": reset})})
    return Assignment(settings, {TOPIC: "news"}, pipeline.database, pipeline.caution, name, clock)
