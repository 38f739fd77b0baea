"""Tails of distributions as natural logarithms, so that one in a trillion years is still a number.

All functions take and give arrays of one shape (numpy broadcasting holds). Sources: the continued fraction of the
incomplete beta function and the series of the incomplete gamma function (DLMF 8.17.22 and 8.7.1), Stirling's
series (DLMF 5.11.1), Wallace's normal equivalent of Student's t (Ann. Math. Stat. 30, 1959).
"""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

# Relative change at which a series or fraction has converged, and terms until it is given up (never met in tests).
_CLOSE = 1e-12
_TERMS = 10_000
_TINY = 1e-300
# Below this dispersion (variance over mean) a count is Poisson; a negative binomial's size would be out of range.
_POISSON = 1.001


def count_tail(count: ArrayLike, mean: ArrayLike, dispersion: ArrayLike) -> Floats:
    """Log of the mid-probability of a count as great: P(X > count) + P(X = count) / 2.

    Half of the count itself keeps the rate right on average where counts are small: the full one would fire too
    seldom. X has the given mean and variance `dispersion * mean`: negative binomial, or Poisson up to 1.
    """
    shape = np.broadcast(np.asarray(count), np.asarray(mean), np.asarray(dispersion)).shape
    k, mu, phi = (np.broadcast_to(np.asarray(each, float), shape) for each in (count, mean, dispersion))
    at_least = np.zeros(shape)
    some = k > 0
    at_least[some] = _at_least(k[some], np.maximum(mu[some], _TINY), phi[some])
    exactly = _exactly(k, np.maximum(mu, _TINY), phi)
    # Half of the count's own probability is taken off; it is a part of the tail, so nothing cancels.
    middle: Floats = at_least + np.log1p(-0.5 * np.exp(np.minimum(exactly - at_least, 0.0)))
    return middle


def _at_least(k: Floats, mu: Floats, phi: Floats) -> Floats:
    """Log of P(X >= k), k above 0."""
    result = np.zeros(k.shape)
    over = phi >= _POISSON
    if (~over).any():
        result[~over] = _gamma_lower(k[~over], mu[~over])
    if over.any():
        result[over] = log_beta_ratio(1 - 1 / phi[over], k[over], mu[over] / (phi[over] - 1))
    return result


def _exactly(k: Floats, mu: Floats, phi: Floats) -> Floats:
    """Log of P(X = k)."""
    poisson = k * np.log(mu) - mu - log_gamma(k + 1)
    size = mu / np.maximum(phi - 1, _POISSON - 1)
    ways = log_gamma(k + size) - log_gamma(size) - log_gamma(k + 1)
    over = ways - size * np.log(np.maximum(phi, 1)) + k * np.log1p(-1 / np.maximum(phi, _POISSON))
    return np.where(phi < _POISSON, poisson, over)


def log_beta_ratio(x: ArrayLike, a: ArrayLike, b: ArrayLike) -> Floats:
    """Log of the regularised incomplete beta function I_x(a, b); x in (0, 1), a and b above 0."""
    at, one, two = np.broadcast_arrays(*(np.asarray(each, float) for each in (x, a, b)))
    at = np.clip(at, _TINY, 1 - 1e-16)
    swap = at > (one + 1) / (one + two + 2)
    near, first, second = np.where(swap, 1 - at, at), np.where(swap, two, one), np.where(swap, one, two)
    front = first * np.log(near) + second * np.log1p(-near) - np.log(first)
    front = front + log_gamma(first + second) - log_gamma(first) - log_gamma(second)
    value = front + np.log(_beta_fraction(near, first, second))
    complement = np.log1p(-np.exp(np.minimum(value, -1e-16)))
    result: Floats = np.where(swap, complement, np.minimum(value, 0.0))
    return result


def _beta_fraction(x: Floats, a: Floats, b: Floats) -> Floats:
    """The continued fraction, by Lentz's method; converges for x below (a + 1) / (a + b + 2)."""
    c = np.ones(x.shape)
    d = 1 / _away(1 - (a + b) * x / (a + 1))
    value = d.copy()
    for m in range(1, _TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d, c = 1 / _away(1 + even * d), _away(1 + even / c)
        value = value * d * c
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d, c = 1 / _away(1 + odd * d), _away(1 + odd / c)
        value = value * d * c
        if np.all(np.abs(d * c - 1) < _CLOSE):
            break
    return value


def _away(value: Floats) -> Floats:
    """A denominator that is not zero."""
    return np.where(np.abs(value) < _TINY, _TINY, value)


def _gamma_lower(a: Floats, x: Floats) -> Floats:
    """Log of the regularised lower incomplete gamma function P(a, x), which is P(Poisson(x) >= a)."""
    total = term = np.ones(a.shape)
    for n in range(1, _TERMS):
        term = term * x / (a + n)
        total = total + term
        if np.all(term < _CLOSE * total):
            break
    result: Floats = np.minimum(a * np.log(x) - x - log_gamma(a + 1) + np.log(total), 0.0)
    return result


def log_gamma(value: ArrayLike) -> Floats:
    """Log of the gamma function of numbers above 0."""
    x = np.asarray(value, float)
    shift = np.zeros(x.shape)
    # Stirling's series is exact to 1e-13 from 8 on; below, the recurrence leads there.
    for _ in range(8):
        small = x < 8
        shift, x = shift + np.where(small, np.log(np.where(small, x, 1.0)), 0.0), np.where(small, x + 1, x)
    inverse = 1 / (x * x)
    series = (1 / 12 - inverse * (1 / 360 - inverse * (1 / 1260 - inverse * (1 / 1680 - inverse / 1188)))) / x
    result: Floats = (x - 0.5) * np.log(x) - x + 0.5 * math.log(2 * math.pi) + series - shift
    return result


_erfc: Any = np.vectorize(math.erfc, otypes=[float])


def normal_tail(z: ArrayLike) -> Floats:
    """Log of P(Z > z)."""
    z = np.asarray(z, float)
    near = np.log(0.5 * _erfc(np.minimum(z, 10.0) / math.sqrt(2)))
    far = np.maximum(z, 10.0)
    inverse = 1 / (far * far)
    beyond = -far * far / 2 - np.log(far) - 0.5 * math.log(2 * math.pi)
    beyond = beyond + np.log1p(-inverse * (1 - inverse * (3 - inverse * (15 - inverse * 105))))
    result: Floats = np.where(z < 10.0, near, beyond)
    return result


def normal_equivalent(log_tail: ArrayLike) -> Floats:
    """The z with P(Z > z) of this logarithm: Newton's method on the logarithm, to 1e-9."""
    tail_of = np.minimum(np.asarray(log_tail, float), -1e-300)
    lower = tail_of > math.log(0.5)
    target = np.where(lower, np.log(-np.expm1(tail_of)), tail_of)
    target = np.maximum(target, -1e8)
    z = np.sqrt(np.maximum(-2 * target - np.log(np.maximum(-2 * target, 1.0)), 0.0))
    for _ in range(8):
        tail = normal_tail(z)
        # The hazard, phi / Q, is the slope of -log Q.
        hazard = np.exp(-z * z / 2 - 0.5 * math.log(2 * math.pi) - tail)
        z = z + (tail - target) / hazard
    result: Floats = np.where(lower, -z, z)
    return result


def shrink(z: ArrayLike, freedom: ArrayLike) -> Floats:
    """The z that a Student t of this value and degrees of freedom is worth."""
    z, freedom = np.asarray(z, float), np.asarray(freedom, float)
    size = (8 * freedom + 1) / (8 * freedom + 3) * np.sqrt(freedom * np.log1p(z * z / freedom))
    result: Floats = np.sign(z) * size
    return result
