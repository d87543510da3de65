"""What fills the places for numbers: a name to a function that makes the table or the phrase."""

from collections.abc import Callable

from tables import compare, demo, mnist, regression, speed, stored

PLACES: dict[str, Callable[[], str]] = {
    **compare.PLACES,
    **demo.PLACES,
    **mnist.PLACES,
    **regression.PLACES,
    **speed.PLACES,
    **stored.PLACES,
}
