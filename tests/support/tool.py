"""smartio_tool as tests run it, and what tools/schema says of its documents."""

import functools
import json
import os
import pathlib
import subprocess

import jsonschema

from processes import run

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("SMARTIO_BUILD", ROOT / "build")).resolve()
TOOL = BUILD / "tools/smartio_tool/smartio_tool"
SCHEMAS = ROOT / "tools/schema"


@functools.cache
def validator(name):
    uri = (SCHEMAS / f"{name}.json").as_uri()
    schema = json.loads((SCHEMAS / f"{name}.json").read_text())
    return jsonschema.Draft202012Validator(schema, resolver=jsonschema.RefResolver(uri, schema))


def check(document, schema):
    """Fails unless `document` is what tools/schema/SCHEMA.json says; gives the document."""
    errors = [f"{list(error.absolute_path)}: {error.message}" for error in validator(schema).iter_errors(document)]
    assert not errors, f"{schema}: {errors} in {document}"
    return document


class Ran:
    """How one run of smartio_tool ended."""

    def __init__(self, done):
        self.exit, self.out, self.err = done.returncode, done.stdout, done.stderr

    def __repr__(self):
        return f"exit {self.exit}\nstdout: {self.out}stderr: {self.err}"

    def json(self, schema):
        lines = self.out.splitlines()
        assert len(lines) == 1, self
        return check(json.loads(lines[0]), schema)

    def failed(self, code):
        """Fails unless the run ended with `code` and one sentence; gives the sentence."""
        assert self.exit == code, self
        assert self.err.startswith("smartio_tool: ") and self.err.count("\n") == 1 and self.err.endswith("\n"), self
        return self.err[len("smartio_tool: "):-1]


def tool(*words, run_dir=None, stdin=subprocess.DEVNULL, env=None):
    where = ["--run-dir", run_dir] if run_dir else []
    return Ran(run(TOOL, *where, *words, stdin=stdin, text=True, env={**os.environ, **(env or {})}))
