"""The folders that a command writes to: one process at a time, and never over a run that is there."""

import contextlib
import errno
import itertools
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from filelock import FileLock, Timeout
from jsonargparse import Namespace

from lvm_lightning.callbacks.run_checkpoint import LAST
from lvm_lightning.command.checkpoints import run_of
from lvm_lightning.command.runs import as_list, folder_of_runs, logger_arguments, numbers_runs
from lvm_lightning.support import PROGRAM, UserError

FIT, TEST = ".fit.lock", ".test.lock"
"""Files whose locks say who writes: a test may run beside a training, it writes other files."""
RUN_FILES = ("config.yaml", "training_bound.csv", "checkpoints")
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EBADF, errno.EINVAL, errno.ENOTSUP)
"""What a file system says that has no locks, as some over a network."""


def take_run_folder(settings: Namespace, held: ExitStack) -> None:
    """Take the folders of a training run, and name that of a new run in the configuration.

    Args:
        settings: the subcommand's.
        held: what gives them back.

    Raises:
        UserError: if one cannot be written to, is in use, or holds a run that this one does not go on with.
    """
    with written_to(settings):
        _take(settings, held, FIT)
        if settings.get("test_after_fit"):
            _take(settings, held, TEST)
        callbacks = [callback.get("init_args") for callback in as_list(settings.trainer.get("callbacks"))]
        for callback in filter(None, [settings.get("checkpoint"), *callbacks]):
            path = callback.get("dirpath")
            if path is not None and "://" not in str(path):
                with _writing_to("checkpoint.dirpath", path):
                    _claim(Path(path), held, FIT, "checkpoint.dirpath")
                _refuse_a_run(settings, "checkpoint.dirpath", Path(path), ("*.ckpt",))


def take_test_folder(settings: Namespace, held: ExitStack) -> None:
    """Take the folder that a test keeps its finished batches in.

    Raises:
        UserError: if it cannot be written to, or another test of the run is at work.
    """
    with written_to(settings):
        _take(settings, held, TEST)


def _take(settings: Namespace, held: ExitStack, lock: str) -> None:
    """Take the logger's folder, or without a logger the trainer's; a logger that names no versions has its own way."""
    logger, argument = logger_arguments(settings), "trainer.default_root_dir"
    numbered, folder = numbers_runs(settings), Path(settings.trainer.get("default_root_dir") or ".")
    if numbered:
        argument, folder = "trainer.logger.version", _take_version(settings, held, lock)
    elif given := logger.get("version") or logger.get("id"):
        argument, folder = "trainer.logger.version", folder_of_runs(settings) / str(given)
        _claim(folder, held, lock, argument)
    elif settings.trainer.get("logger") is False:
        _claim(folder, held, lock, argument)
    else:
        return
    if lock == FIT:
        _refuse_a_run(settings, argument, folder, ("*",) if numbered else RUN_FILES)


def require_writable(settings: Namespace, held: ExitStack) -> None:
    """Find out now that a study could not write what it will have found, or TensorBoard's thread.

    Raises:
        UserError: if that is so.
    """
    if settings.get("output"):
        require_output(Path(settings.output), held)
        return
    if "version" not in (logger := logger_arguments(settings)):
        return
    with written_to(settings):
        run = logger.version if isinstance(logger.version, str) else ""
        _write_to(folder_of_runs(settings) / run, held)


def require_output(folder: Path, held: ExitStack) -> None:
    """Find out now that a study could not write to the folder that it is told.

    Raises:
        UserError: if that is so.
    """
    with _writing_to("output", folder):
        _write_to(folder, held)


def _write_to(folder: Path, held: ExitStack) -> None:
    _make(folder, held)
    with tempfile.TemporaryFile(dir=folder):
        pass


def written_to(settings: Namespace) -> contextlib.AbstractContextManager[None]:
    """Tell that the logger's folder, or without a logger the trainer's, cannot be written to."""
    if "version" in logger_arguments(settings):
        return _writing_to("trainer.logger.save_dir", folder_of_runs(settings))
    return _writing_to("trainer.default_root_dir", settings.trainer.get("default_root_dir"))


@contextlib.contextmanager
def _writing_to(argument: str, folder: Path | str | None) -> Iterator[None]:
    """Tell that a folder cannot be written to as the mistake that it is.

    Raises:
        UserError: naming the argument and the folder.
    """
    try:
        yield
    except (OSError, ValueError) as error:  # a name with a zero byte is a ValueError
        where = getattr(error, "filename", None)
        why = f"{where}: {error.strerror}" if isinstance(error, OSError) and where else str(error)
        raise UserError(
            f"{argument}: must be a folder that can be written to, got {folder} ({why}); name another one"
        ) from error


def _take_version(settings: Namespace, held: ExitStack, lock: str) -> Path:
    """Take the logger's folder, the next one where it names none."""
    logger, folder = logger_arguments(settings), folder_of_runs(settings)
    if logger.version is None:
        _make(folder, held)
        numbers = [int(path.name[8:]) for path in folder.glob("version_*") if path.name[8:].isdigit()]
        for number in itertools.count(max(numbers, default=-1) + 1):
            # Making a folder is something that only one of two processes succeeds in; who names it may be faster yet.
            with contextlib.suppress(FileExistsError, InUseError):
                _make(folder / f"version_{number}", held, exist_ok=False)
                logger.version = f"version_{number}"
                _claim(folder / logger.version, held, lock, "trainer.logger.version")
                break
    else:
        logger.version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
        _claim(folder / logger.version, held, lock, "trainer.logger.version")
    return folder / str(logger.version)


class InUseError(UserError):
    """Another process writes to a folder."""


def _claim(folder: Path, held: ExitStack, name: str, argument: str) -> None:
    """Let no other process take a folder for the same end until this one ends, however it ends.

    Raises:
        InUseError: if another process has it.
        OSError: if it cannot be written to.
    """
    _make(folder, held)
    # Named twice by one process (the run's folder as dirpath too), it is the same lock.
    lock = FileLock(folder.resolve() / name, is_singleton=True)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        work = "test" if name == TEST else "fit"
        raise InUseError(
            f"{argument}: must not be in use, got {folder}, where another '{PROGRAM} {work}' is at work; wait until it "
            "has ended, or name another one"
        ) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        print(f"{PROGRAM}: note: no locks in {folder}; start no second command on this run", file=sys.stderr)
        return
    held.callback(lock.release)
    # Removed while it is held: who has opened it by then finds out, and makes a new one.
    held.callback(Path(lock.lock_file).unlink, missing_ok=True)


def _refuse_a_run(settings: Namespace, argument: str, folder: Path, patterns: tuple[str, ...]) -> None:
    """Refuse a folder that holds a run, unless this command goes on with it."""
    given = settings.get("ckpt_path")
    if given is not None and Path(given).name == LAST:  # from an earlier state, fit makes a run of its own
        path, dirpath = Path(given), settings.checkpoint.get("dirpath")
        if _same(run_of(path), folder) or (dirpath is not None and _same(path.parent, Path(dirpath))):
            return
    if not any(found.name not in (FIT, TEST) for pattern in patterns for found in folder.glob(pattern)):
        return
    last = folder / LAST if argument == "checkpoint.dirpath" else folder / "checkpoints" / LAST
    go_on = f"go on with it (--ckpt_path {last}), " if last.exists() else ""
    raise UserError(
        f"{argument}: must not hold a run already, got {folder}; {go_on}leave the argument out, or name another one"
    )


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


def _make(folder: Path, held: ExitStack, *, exist_ok: bool = True) -> None:
    """Make a folder, and remove at the end, of it and those above that were made with it, what is empty then."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=exist_ok)
    held.callback(_remove_empty, made)


def _remove_empty(folders: list[Path]) -> None:
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()
