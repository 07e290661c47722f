"""A file for each verb of the command line."""

import os.path
import signal
import sys

PROGRAM = os.path.basename(sys.argv[0]) in ("-m", "lmmsteer", "lmmsteer.exe")
if PROGRAM:
    # Until the command can say that nothing is lost, Ctrl-C ends it without a word: a second of
    # imports would answer with a traceback. jobs.__main__.cli puts Python's own handler back.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
