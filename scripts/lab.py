"""What the scripts share that run the whole system: servers, processes, questions to Postgres."""

import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """The run cannot go on; the sentence says why."""


class Lab:
    """RabbitMQ, Postgres and whatever else is started, in a temporary folder; all ends with it."""

    def __init__(self, postgres_settings=()):
        # A plain `kill` must clean up, too.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
        self.folder = Path(tempfile.mkdtemp(prefix="finalizer-"))
        # The servers may run as other users.
        self.folder.chmod(0o711)
        self.services = self.folder / "services"
        self.postgres_settings = postgres_settings
        self.processes = []
        self.databases = []

    def __enter__(self):
        try:
            self.servers("install", "lab")
            self.servers("start", *self.postgres_settings)
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        self.read_urls()
        return self

    def __exit__(self, kind, error, trace):
        for database in self.databases:
            database.close()
        for process in self.processes:
            process.stop()
        if self.services.exists():
            self.servers("stop")
        if kind is None:
            shutil.rmtree(self.folder, ignore_errors=True)
        else:
            print(f"what is left lies in {self.folder}", file=sys.stderr)

    def read_urls(self):
        """Again after a server was restarted: it is another process then."""
        lines = (self.services / "env").read_text().splitlines()
        self.urls = dict(shlex.split(line)[1].split("=", 1) for line in lines)
        self.amqp_url = self.urls["FINALIZER_TEST_AMQP_URL"]
        self.postgres_url = self.urls["FINALIZER_TEST_POSTGRES_URL"]

    def servers(self, command, *arguments):
        """Runs scripts/services; what it prints."""
        folder = [] if command == "install" else [str(self.services)]
        script = [str(ROOT / "scripts" / "services"), command, *folder, *arguments]
        done = subprocess.run(script, stdout=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise Failed(f"scripts/services {command} failed")
        return done.stdout

    def new_database(self, name):
        database = Database(self.postgres_url.rsplit("/", 1)[0], name)
        self.databases.append(database)
        return database

    def start(self, name, command, environment, stdin=subprocess.DEVNULL):
        process = Process(name, command, environment, self.folder, stdin)
        self.processes.append(process)
        return process

    def queue_depths(self):
        """Messages in each queue, those that are handed out and not acknowledged included."""
        lines = self.servers("rabbitmqctl", "--silent", "list_queues", "name", "messages").splitlines()
        return {name: int(count) for name, count in (line.split("\t") for line in lines)}


class Process:
    """Something we started; its output is in a file."""

    def __init__(self, name, command, environment, folder, stdin=subprocess.DEVNULL):
        self.name = name
        self.stdin = stdin
        self.command = [str(part) for part in command]
        self.environment = environment
        self.folder = folder
        self.log = folder / f"{name}.log"
        self.peak_kib = 0
        self.start()

    def start(self):
        with open(self.log, "ab") as log:
            self.running = subprocess.Popen(
                self.command, env=self.environment, cwd=self.folder, stdin=self.stdin,
                stdout=log, stderr=log,
            )
        self.pid = self.running.pid

    def require(self):
        """It must not have ended by itself."""
        if self.running.poll() is not None:
            tail = self.log.read_text(errors="replace")[-3000:]
            raise Failed(f"{self.name} ended with status {self.running.returncode}:\n{tail}")

    def kill(self):
        self.running.kill()
        self.running.wait()

    def stop(self):
        if self.running.poll() is not None:
            return
        self.running.terminate()
        try:
            self.running.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.kill()

    def wait_for_line(self, start):
        """The first line of its output that starts like this."""
        def found():
            self.require()
            lines = self.log.read_text(errors="replace").splitlines()
            return next((line for line in lines if line.startswith(start)), None)

        return wait_for(found, 30, f"{self.name} to say {start!r}")

    def cpu_seconds(self):
        return cpu_seconds([self.pid])

    def memory_mib(self, what="VmRSS"):
        """Its resident memory."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split(f"{what}:")[1].split()[0]) / 1024

    def peak_memory_mib(self):
        """The most resident memory it ever had."""
        return self.memory_mib("VmHWM")


class Database:
    """A database of its own, and one psql that stays open to ask it."""

    PSQL = ["psql", "--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=1"]
    LEAST_ID = f"'{uuid.UUID(int=0)}'"

    def __init__(self, server_url, name):
        self.name = name
        self.server = [*self.PSQL, f"--dbname={server_url}/postgres"]
        subprocess.run([*self.server, f"--command=CREATE DATABASE {name}"], check=True)
        self.url = f"{server_url}/{name}"
        self.psql = subprocess.Popen(
            [*self.PSQL, "--no-align", "--tuples-only", "--field-separator=\t", f"--dbname={self.url}"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )

    def rows(self, question):
        """The answer's rows, as lists of text."""
        self.psql.stdin.write(f"{question};\nSELECT 'the end';\n")
        self.psql.stdin.flush()
        lines = []
        while (line := self.psql.stdout.readline()) != "the end\n":
            if line == "":
                raise Failed(f"Postgres did not answer: {question}")
            lines.append(line.rstrip("\n"))
        return [line.split("\t") for line in lines]

    def number(self, question):
        return int(self.rows(question)[0][0])

    def run_file(self, path):
        subprocess.run([*self.PSQL, f"--dbname={self.url}", f"--file={path}"], check=True)

    def close(self):
        if self.psql.poll() is None:
            self.psql.stdin.close()
            self.psql.wait()

    def drop(self):
        self.close()
        subprocess.run([*self.server, f"--command=DROP DATABASE {self.name} WITH (FORCE)"], check=True)


class Finalizer:
    """The binary under test, with the settings that all its commands share."""

    def __init__(self, lab, binary, database):
        self.lab = lab
        self.binary = binary
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            **clean_environment(),
            "FINALIZER_DATABASE_URL": database.url,
            "FINALIZER_AMQP_URL": lab.amqp_url,
            "FINALIZER_SECRET_KEY": secrets.token_hex(32),
            "FINALIZER_ALLOW_PRIVATE": "127.0.0.0/8",
            "FINALIZER_RECORDINGS": str(lab.folder / "recordings"),
            "FINALIZER_LISTEN": f"127.0.0.1:{self.port}",
            "FINALIZER_PUBLIC_URL": self.url,
            # What is made up may be of long ago.
            "FINALIZER_DELIVERY_RETENTION": "100y",
        }
        (lab.folder / "recordings").mkdir(exist_ok=True)

    def command(self, *arguments):
        """Runs a command to its end; what it printed."""
        done = subprocess.run(
            [self.binary, *arguments], env=self.environment, cwd=self.lab.folder, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        if done.returncode != 0:
            raise Failed(f"finalizer {' '.join(arguments)} ended with status {done.returncode}: {done.stderr}")
        return done.stdout

    def ask(self, *arguments):
        """Runs a command with --json; its `data`."""
        return json.loads(self.command(*arguments, "--json"))["data"]

    def run(self, name, *arguments, **settings):
        return self.lab.start(name, [self.binary, "run", *arguments], {**self.environment, **settings})

    def wait_until_ready(self, process):
        def ready():
            process.require()
            return get_status(f"{self.url}/readyz") == 200

        wait_for(ready, 30, f"{process.name} to be ready")


class Receiver:
    """One of the example receivers, and its endpoint."""

    def __init__(self, lab, finalizer, key, name, command):
        self.name = name
        self.log = lab.folder / f"{name}.ndjson"
        # The secret is known only once the endpoint is there, and the endpoint needs the port.
        port = free_port()
        secret = finalizer.ask("endpoints", "add", f"http://127.0.0.1:{port}/", "--owner", "all")["secret"]
        environment = {**finalizer.environment, "WEBHOOK_SECRET": secret, "FINALIZER_API_KEY": key}
        command = [*command, "--listen", f"127.0.0.1:{port}", "--api-url", finalizer.url, "--log", self.log]
        self.process = lab.start(f"receiver-{name}", command, environment)
        self.process.wait_for_line("listening")

    def lines(self):
        with open(self.log) as log:
            return [json.loads(line) for line in log]


def clean_environment():
    """Nothing of the caller's settings leaks in, and no proxy stands before loopback."""
    kept = {name: value for name, value in os.environ.items()
            if not name.startswith(("FINALIZER_", "AWS_", "LIVEKIT_")) and not name.lower().endswith("_proxy")}
    return {**kept, "NO_PROXY": "*"}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def get(url):
    """The response, of a server on this machine."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5)


def get_status(url):
    try:
        with get(url) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def get_text(url):
    with get(url) as response:
        return response.read().decode()


def wait_for(condition, seconds, what, every=0.1):
    """Waits until the condition gives something true; that."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise Failed(f"waited {seconds} s in vain for {what}")
        time.sleep(every)
    return result


def children_of(pid):
    """The processes below a process, itself included."""
    found = [pid]
    for parent in found:
        for path in Path(f"/proc/{parent}/task").glob("*/children"):
            found += [int(child) for child in path.read_text().split()]
    return found


def cpu_seconds(pids):
    """CPU time of the processes, and of those of their children that have ended."""
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        total += sum(int(ticks) for ticks in fields[11:15])
    return total / CLOCK_TICKS


def build(*arguments, folder=ROOT):
    """Builds with cargo; where each program lies, by its name."""
    command = ["cargo", "build", "--locked", "--message-format=json-render-diagnostics", *arguments]
    output = subprocess.run(command, check=True, cwd=folder, stdout=subprocess.PIPE, text=True).stdout
    messages = map(json.loads, output.splitlines())
    return {message["target"]["name"]: message["executable"] for message in messages if message.get("executable")}


def receiver_commands(*profile):
    """How to start each example receiver, by its language."""
    examples = ROOT / "examples" / "receivers"
    return {
        "python": [ROOT / "scripts" / "python", examples / "python" / "receiver.py"],
        "node": [ROOT / "scripts" / "node", examples / "node" / "receiver.js"],
        "rust": [build("--example", "receiver", *profile)["receiver"]],
    }
