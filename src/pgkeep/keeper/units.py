"""The schedule for those who want no daemon: as files for systemd, cron, GitHub and Kubernetes.

Writers take turns there as well: each waits for a lock in the state folder (GitHub: for its group).
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pgkeep.errors import UsageError
from pgkeep.keeper.calendar import Calendar
from pgkeep.keeper.schedule import Job, Lane

Files = Mapping[str, str]

_WAIT_SECONDS = 6 * 3600
_SMALL_IMAGE = "ghcr.io/pgkeep/pgkeep:latest"


@dataclass(frozen=True, slots=True)
class Host:
    """Where the units are for."""

    program: tuple[str, ...]
    config: Path
    state_dir: Path
    secrets: tuple[str, ...] = ()
    """Environment variables that the configuration refers to."""
    text: str = ""
    """The configuration itself, where it has to travel."""


def _commands(jobs: Iterable[Job]) -> list[Job]:
    """Those that are commands: reminders are for the keeper."""
    return [job for job in jobs if job.arguments]


def _command(job: Job, host: Host) -> list[str]:
    command = [*host.program, *job.arguments, "--quiet", "--config", str(host.config)]
    if job.task.lane is not Lane.WRITE:
        return command
    return ["flock", "-w", str(_WAIT_SECONDS), str(host.state_dir / "turns.lock"), *command]


# --- systemd --------------------------------------------------------------------------------


def systemd(jobs: tuple[Job, ...], host: Host) -> Files:
    """A service and a timer for each job, to put into /etc/systemd/system."""
    files = {}
    for job in _commands(jobs):
        command = " ".join(_systemd_quoted(word) for word in _command(job, host))
        if not command.startswith("/"):
            command = f"/usr/bin/{command}"
        files[f"pgkeep-{job.name}.service"] = _SERVICE.format(
            job=job.name, command=command, state_dir=host.state_dir
        )
        times = Calendar.parse(job.cron).systemd(job.zone)
        files[f"pgkeep-{job.name}.timer"] = _TIMER.format(
            job=job.name,
            times="\n".join(f"OnCalendar={one}" for one in times),
            jitter=int(job.jitter.total_seconds()),
        )
    return files


_SERVICE = """\
# written by: pgkeep schedule --systemd
[Unit]
Description=pgkeep {job}
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
# Secrets, as NAME=value lines (0600).
EnvironmentFile=-/etc/pgkeep/environment
ExecStart={command}
# 3: done, and something needs attention.
SuccessExitStatus=3
Restart=on-failure
RestartSec=300
TimeoutStartSec=86400
UMask=0077
NoNewPrivileges=true
PrivateTmp=true
"""

_TIMER = """\
# written by: pgkeep schedule --systemd
[Unit]
Description=when pgkeep {job} runs

[Timer]
{times}
RandomizedDelaySec={jitter}
# What was missed while the machine was off is caught up.
Persistent=true

[Install]
WantedBy=timers.target
"""


def _systemd_quoted(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if any(c in word for c in " \t'\"") else escaped


# --- cron -----------------------------------------------------------------------------------


def cron(jobs: tuple[Job, ...], host: Host) -> Files:
    """Lines for `crontab -e`."""
    lines = [
        "# written by: pgkeep schedule --cron",
        "# cron runs no job that was missed while the machine was off; pgkeep run does.",
        "SHELL=/bin/sh",
    ]
    for zone in sorted({job.zone for job in _commands(jobs)}):
        lines += ["", f"# cronie reads CRON_TZ; other crons go by the machine's own zone, which"
                  f" must be {zone}", f"CRON_TZ={zone}"]  # fmt: skip
        for job in _commands(jobs):
            if job.zone == zone:
                when, test = Calendar.parse(job.cron).cron()
                lines.append(f"{when} {_cron_command(job, host, test)}")
    return {"pgkeep.cron": "\n".join(lines) + "\n"}


def _cron_command(job: Job, host: Host, test: str) -> str:
    command = shlex.join(_command(job, host))
    if test:
        command = f"{test.replace('date', f'TZ={job.zone} date')} && {command}"
    return command.replace("%", "\\%")  # in a crontab a bare % is a line break


# --- GitHub Actions -------------------------------------------------------------------------


def github_actions(jobs: tuple[Job, ...], host: Host) -> Files:
    """A workflow, to put into .github/workflows."""
    steps, times = [], []
    for job in _commands(jobs):
        if job.zone != "UTC":
            raise UsageError(
                f"GitHub knows no zone but UTC, and {job.name} is planned in {job.zone}",
                hint='Set schedule.zone = "UTC".',
            )
        when, test = Calendar.parse(job.cron).cron()
        if when not in times:
            times.append(when)
        command = shlex.join(("pgkeep", *job.arguments, "--quiet"))
        body = f"{test} || exit 0\n          {command}" if test else command
        steps.append(_STEP.format(job=job.name, when=when, body=body))
    schedule = "\n".join(f'    - cron: "{one}"' for one in times)
    secrets = "\n".join(f"      {name}: ${{{{ secrets.{name} }}}}" for name in host.secrets)
    return {
        "pgkeep.yml": _WORKFLOW.format(
            schedule=schedule, secrets=secrets or "      PGKEEP: yes", steps="\n".join(steps)
        )
    }


_WORKFLOW = """\
# written by: pgkeep schedule --github-actions
name: pgkeep
on:
  schedule:
{schedule}
# One writer at a time. GitHub drops what waits when more comes: the next run makes up for it.
concurrency:
  group: pgkeep
  cancel-in-progress: false
permissions:
  contents: read
jobs:
  pgkeep:
    runs-on: ubuntu-latest
    timeout-minutes: 350
    env:
      PGKEEP_CONFIG: pgkeep.toml
{secrets}
    steps:
      - uses: actions/checkout@v4
      # pgkeep's source, at a commit that you have looked at: it runs beside your secrets.
      - uses: actions/checkout@v4
        with:
          repository: ${{{{ vars.PGKEEP_REPOSITORY }}}}
          ref: ${{{{ vars.PGKEEP_COMMIT }}}}
          path: .pgkeep
      - name: install
        run: |
          python3 -m venv .pgkeep/.venv
          .pgkeep/.venv/bin/pip install --require-hashes -r .pgkeep/requirements/run.lock
          mkdir .pgkeep/bin
          printf '#!/bin/sh\\nPYTHONPATH=%s exec %s -m pgkeep "$@"\\n' \\
            "$PWD/.pgkeep/src" "$PWD/.pgkeep/.venv/bin/python" > .pgkeep/bin/pgkeep
          chmod +x .pgkeep/bin/pgkeep
          echo "$PWD/.pgkeep/bin" >> "$GITHUB_PATH"
      # This host's own keys, else each run would sign as somebody new.
      - name: keys
        env:
          SIGNING_KEY: ${{{{ secrets.PGKEEP_SIGNING_KEY }}}}
          INDEX_KEY: ${{{{ secrets.PGKEEP_INDEX_KEY }}}}
        run: |
          umask 077
          mkdir -p ~/.local/state/pgkeep
          printf '%s\\n' "$SIGNING_KEY" > ~/.local/state/pgkeep/signing.key
          printf '%s\\n' "$INDEX_KEY" > ~/.local/state/pgkeep/index.key
{steps}
"""

_STEP = """\
      - name: {job}
        if: github.event.schedule == '{when}'
        run: |
          {body} || [ $? = 3 ]"""


# --- Kubernetes -----------------------------------------------------------------------------


def kubernetes(jobs: tuple[Job, ...], host: Host) -> Files:
    """Cron jobs, the configuration, and a volume for the state."""
    parts = [_KUBERNETES_HEAD.format(config=_indented(host.text, 4))]
    inside = Host(("pgkeep",), Path("/etc/pgkeep/pgkeep.toml"), Path("/var/lib/pgkeep"))
    for job in _commands(jobs):
        when, test = Calendar.parse(job.cron).cron()
        command = shlex.join(_command(job, inside))
        script = f"{test.replace('date', f'TZ={job.zone} date')} || exit 0\n" if test else ""
        parts.append(
            _CRON_JOB.format(
                name=f"pgkeep-{job.name}"[:52].rstrip("-").replace("_", "-"),
                when=when,
                zone=job.zone,
                image=_SMALL_IMAGE,
                script=_indented(f"{script}{command} || [ $? = 3 ]", 18),
            )
        )
    return {"pgkeep.yaml": "---\n".join(parts)}


def _indented(text: str, spaces: int) -> str:
    return "\n".join(" " * spaces + line if line else "" for line in text.splitlines())


_KUBERNETES_HEAD = """\
# written by: pgkeep schedule --kubernetes
# Secrets that the configuration names go into the secret pgkeep, under the same names.
apiVersion: v1
kind: ConfigMap
metadata:
  name: pgkeep
data:
  pgkeep.toml: |
{config}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: pgkeep-state
spec:
  accessModes: [ReadWriteOnce]
  resources:
    requests:
      storage: 1Gi
"""

_CRON_JOB = """\
apiVersion: batch/v1
kind: CronJob
metadata:
  name: {name}
spec:
  schedule: "{when}"
  timeZone: {zone}
  concurrencyPolicy: Forbid
  startingDeadlineSeconds: 3600
  jobTemplate:
    spec:
      backoffLimit: 3
      activeDeadlineSeconds: 86400
      template:
        spec:
          restartPolicy: Never
          securityContext:
            runAsNonRoot: true
            runAsUser: 1000
            fsGroup: 1000
          containers:
            - name: pgkeep
              image: {image}
              envFrom:
                - secretRef:
                    name: pgkeep
              command:
                - /bin/sh
                - -c
                - |
{script}
              volumeMounts:
                - name: config
                  mountPath: /etc/pgkeep
                - name: state
                  mountPath: /var/lib/pgkeep
          volumes:
            - name: config
              configMap:
                name: pgkeep
            - name: state
              persistentVolumeClaim:
                claimName: pgkeep-state
"""

FORMS: Mapping[str, Callable[[tuple[Job, ...], Host], Files]] = {
    "systemd": systemd,
    "cron": cron,
    "github-actions": github_actions,
    "kubernetes": kubernetes,
}
