"""How tools/test_gpu runs a program of a build: with CUDA's libraries of the machine, within its time, output kept."""

import glob
import os
import re
import signal
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

# What a program may add to the log, in characters from its start and its end.
HEAD, TAIL = 50_000, 200_000


def cuda_major(build):
    """The CUDA that a build is linked with; empty where that cannot be told."""
    words = ["ldd", os.path.join(build, "bin/caffe")]
    try:
        text = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    except FileNotFoundError:
        return ""
    found = re.search(r"libcudart\.so\.(\d+)", text)
    return found.group(1) if found else ""


def cudas(folders):
    """The CUDA that each folder's libraries say that they are of; most say nothing, as those of cuDNN and cuRAND."""
    tell = re.compile(r"lib(?:cudart|cublas|nvrtc)\.so\.(\d+)")
    return {folder: {found.group(1) for found in map(tell.match, os.listdir(folder)) if found} for folder in folders}


def libraries(build, places, toolkits=("/usr/local/cuda", "/usr/local/cuda-*")):
    """The folders of LD_LIBRARY_PATH: the build's own, then CUDA's.

    CUDA's are searched in `places` (a Python's sys.path), where PyPI's packages have them, then in toolkits' folders.
    """
    folders = [os.path.join(build, "lib")]
    major = cuda_major(build)
    toolkit = [folder for place in toolkits for folder in sorted(glob.glob(os.path.join(place, "lib64")))]
    for group in [*(sorted(glob.glob(os.path.join(place, "nvidia/*/lib"))) for place in places), toolkit]:
        of = cudas(group)
        told = set().union(*of.values())
        # cuRAND of 12 and 13 have one name, and are not the same: where all that tells is of another CUDA, the rest is.
        if not major or not told or major in told:
            folders += [folder for folder, majors in of.items() if not major or not majors or major in majors]
    return os.pathsep.join([*folders, os.environ.get("LD_LIBRARY_PATH", "")]).rstrip(os.pathsep)


def reason(status, text, limit):
    """Why a program ended: the first error or fatal line of its log, else the last line; its limit where it was out."""
    found = re.search(r"^[EF]\d{4,} .*?\] (.*)$", text, re.M)
    line = found.group(1) if found else (text.strip().splitlines() or ["no output"])[-1]
    return f"not done in {limit:.0f} s, and ended; its last line: {line}" if status is None else line


class Programs:
    """Runs programs in a packed folder, on one device, until a time that is set for all of them.

    folder: the pack. device: the CUDA device's number, a string. log: the file that gets what they print, made anew.
    places: where PyPI's packages of CUDA may be. within: seconds for all of them.
    """

    def __init__(self, folder, device, log, places, within):
        self.folder, self.device, self.log, self.places = folder, device, log, places
        open(log, "w").close()
        self.end = time.monotonic() + within
        # Each program's output goes into a file of its own while it runs.
        self.work = tempfile.mkdtemp(prefix="test_gpu-")
        self.paths = {}

    def left(self, limit=float("inf")):
        """Seconds that a program with this limit may take."""
        return max(0.0, min(limit, self.end - time.monotonic()))

    def run(self, build, words, limit, cwd="", **environment):
        """A program of a build (None: of no build); its status and output, both streams together.

        What is out of time is ended, with status None. `cwd` is a folder of the pack.
        """
        limit = self.left(limit)
        # Before it is packed or unpacked there is no folder yet.
        place = self.folder if os.path.isdir(self.folder) else self.work
        environment = {**os.environ, "GLOG_logtostderr": "1", **environment}
        if build is not None:
            if build not in self.paths:
                self.paths[build] = libraries(build, self.places)
            environment["LD_LIBRARY_PATH"] = self.paths[build]
        start = time.monotonic()
        with tempfile.TemporaryFile("w+", dir=self.work, encoding="utf-8", errors="replace") as file:
            try:
                # A session of its own: a checker's child is ended with it.
                process = subprocess.Popen(
                    words,
                    cwd=os.path.join(place, cwd),
                    env=environment,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
                try:
                    status = process.wait(limit)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    status = None
            except OSError as error:
                file.write(f"{words[0]} cannot be run: {error.strerror}\n")
                status = 1
            file.flush()
            file.seek(0)
            text = file.read()
        self._keep(words, status, time.monotonic() - start, text)
        return status, text

    def _keep(self, words, status, seconds, text):
        if len(text) > HEAD + TAIL:
            text = f"{text[:HEAD]}\n... {len(text) - HEAD - TAIL} characters left out ...\n{text[-TAIL:]}"
        heading = f"==== {' '.join(words)}\n==== status {status}, {seconds:.1f} s"
        # One write, as several programs may end at once.
        with open(self.log, "a", encoding="utf-8") as file:
            file.write(f"{heading}\n{text}\n")

    def at_once(self, count, work, items):
        """work(item) of each, up to `count` at a time, in the order of the items."""
        with ThreadPoolExecutor(max(1, count)) as pool:
            yield from pool.map(work, items)


def processors():
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0))
