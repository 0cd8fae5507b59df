"""What a call of a model costs, learned from the calls themselves: seconds = a + b·rows."""

from __future__ import annotations

_FORGET = 0.98
_CLIP = 4.0


class Cost:
    """A line fitted through (rows, seconds), old calls fading by 2 % with each new one."""

    __slots__ = ("_n", "_nn", "_nt", "_t", "_w", "fixed_s", "per_row_s")

    def __init__(self) -> None:
        self._w = self._n = self._nn = self._t = self._nt = 0.0
        self.fixed_s = 0.0
        self.per_row_s = 0.0

    def of(self, rows: int) -> float:
        """Predicted seconds for one call with so many rows."""
        return self.fixed_s + self.per_row_s * rows

    def rows_within(self, seconds: float) -> int:
        """How many rows one call can take in that time; 0 when not even one."""
        if self.of(1) > seconds:
            return 0
        if self.per_row_s <= 0:
            return 1_000_000
        return int((seconds - self.fixed_s) / self.per_row_s)

    def learn(self, rows: int, seconds: float) -> None:
        """Take one measured call in; a lone pause (another process, a page fault) counts at most four-fold."""
        if self._w > 3:
            seconds = min(seconds, _CLIP * max(self.of(rows), 1e-6))
        self._w = self._w * _FORGET + 1
        self._n = self._n * _FORGET + rows
        self._nn = self._nn * _FORGET + rows * rows
        self._t = self._t * _FORGET + seconds
        self._nt = self._nt * _FORGET + rows * seconds
        spread = self._w * self._nn - self._n * self._n
        mean_rows, mean_s = self._n / self._w, self._t / self._w
        if spread > 1e-6 * self._nn * self._w:
            slope = (self._w * self._nt - self._n * self._t) / spread
            # Below zero is noise, above the mean per row is an outlier at the far end: both are held.
            self.per_row_s = min(max(slope, 0.0), mean_s / mean_rows)
        self.fixed_s = max(mean_s - self.per_row_s * mean_rows, 0.0)
