"""The few rates of sites that a compiler takes for constants."""

from model.schedules import Schedule, ValLoss

QUANTIZED = 5
"""The rates that a site may take which recompiles at each: torch.compile gives up at the eighth."""
SAMPLED = 1000
"""The points of a schedule at which its lowest and highest rate are looked for."""


class Levels:
    """The few rates of a schedule that sites take which recompile at each: evenly from its lowest to its highest."""

    def __init__(self, schedule: Schedule) -> None:
        if isinstance(schedule, ValLoss):
            rates = [schedule.initial_rate, schedule.final_rate]
        else:
            rates = [schedule.rate(i / SAMPLED) for i in range(SAMPLED + 1)]
        self.low, self.high = min(rates), max(rates)

    def nearest(self, rate: float) -> float:
        """Returns the nearest level."""
        if self.low == self.high:
            return self.low
        step = (self.high - self.low) / (QUANTIZED - 1)
        return self.low + step * min(max(round((rate - self.low) / step), 0), QUANTIZED - 1)
