"""``python -m lit_align``: the command line, with one clear line for what a user can mend."""

import os
import sys
import traceback

from lit_align.judges import JudgeError
from lit_align.messages import one_line

_USERS = (ValueError, FileNotFoundError, FileExistsError, JudgeError, ImportError, RuntimeError, OSError)


def run() -> int:
    """Run the command line; the exit status."""
    from lit_align.cli import main

    try:
        main()
    except KeyboardInterrupt:
        return 130
    except SystemExit as stop:
        # Lightning turns Ctrl-C into status 1; the shell expects 130.
        if isinstance(stop.__context__, KeyboardInterrupt):
            return 130
        raise
    except _USERS as error:
        if os.environ.get("LIT_ALIGN_TRACEBACK"):
            traceback.print_exc()
        print(f"\nerror: {one_line(str(error))}\n(LIT_ALIGN_TRACEBACK=1 shows where)", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run())
