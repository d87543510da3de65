"""The errors of l0bayes: one base class, and one class for each thing a caller may want to catch."""


class L0BayesError(Exception):
    """Base class of every error that l0bayes defines."""


class ArgumentError(L0BayesError, TypeError, ValueError):
    """An argument of another kind than it must be, or a text that is none of those it may be."""


class PathwiseGradientError(L0BayesError, RuntimeError):
    """A gradient was about to flow through the log-density of a gate, where it would be silently wrong."""


class StructureError(L0BayesError, ValueError):
    """A network, or a request about its gates, that cannot be carried out safely."""


class DataError(L0BayesError, ValueError):
    """Data of the wrong shape, type or range, or holding values that are not finite."""


class FileFormatError(L0BayesError, ValueError):
    """A file that is damaged, incomplete, or not of the kind that was asked for."""


class FileInUseError(L0BayesError, RuntimeError):
    """A file that another run is writing."""


class ThreadError(L0BayesError, RuntimeError):
    """A call in one thread while another trains."""


class DivergenceError(L0BayesError, ArithmeticError):
    """Training whose loss stopped being a finite number."""


class UntrustedPosteriorWarning(UserWarning):
    """A posterior was computed, and a diagnostic says that it should not be relied on."""
