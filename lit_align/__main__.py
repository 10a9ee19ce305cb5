"""``python -m lit_align`` is the command line, with one clear line for what a user can mend."""

import os
import signal
import sys
import traceback
from types import FrameType
from typing import NoReturn

from lit_align.utils.messages import one_line

_USERS = (ValueError, ImportError, RuntimeError, OSError)
_INTERRUPTED, _TERMINATED = (
    128 + signal.SIGINT,
    128 + signal.SIGTERM,
)  # a shell expects these


def run() -> int:
    """Run the command line and return the exit status."""
    try:
        from lit_align.cli import main

        main()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except SystemExit as stop:
        # Lightning turns Ctrl-C into status 1.
        if isinstance(stop.__context__, KeyboardInterrupt):
            return _INTERRUPTED
        if stop.code == _TERMINATED:
            return _TERMINATED
        raise
    except _USERS as error:
        if os.environ.get("LIT_ALIGN_TRACEBACK"):
            traceback.print_exc()
        print(f"\nerror: {one_line(str(error))}\n(LIT_ALIGN_TRACEBACK=1 shows where)", file=sys.stderr)
        return 1
    return 0


def _stop(signum: int, frame: FrameType | None) -> NoReturn:
    """Raise SIGTERM as an exception, wherever the program is; a trainer has a handler of its own."""
    raise SystemExit(_TERMINATED)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    status = run()
    if status in (_INTERRUPTED, _TERMINATED):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # some threads wait for an answer: they are not waited for
    sys.exit(status)
