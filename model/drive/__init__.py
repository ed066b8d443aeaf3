"""Drives the dropout of models of any library with a schedule. Needs torch, numpy and PyYAML only."""

from model.drive.driver import Driver
from model.drive.schedule_reader import read_schedule

__all__ = ["Driver", "read_schedule"]
