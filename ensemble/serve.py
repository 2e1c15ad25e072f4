"""python -m ensemble.serve: the ensemble of a run behind HTTP."""

from ensemble.cli import start

if __name__ == "__main__":  # before the imports below, which take seconds
    start("serve")

import argparse
import os
from functools import partial
from importlib.util import find_spec
from typing import Any

from ensemble.base.errors import InputError
from ensemble.base.files import make_folder
from ensemble.run.folder import display_path
from ensemble.run.members import take_run

NEEDED = ("fastapi", "grpc_reflection", "swagger_ui_bundle", "uvicorn")


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Serve until Ctrl-C, and return where it was."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise InputError(
            f"serve needs {', '.join(missing)}: pip install 'crack-ensemble[serve]' brings it"
        )
    from ensemble.serving.application import Limits
    from ensemble.serving.server import (
        TOKEN_VARIABLE,
        Place,
        check_place,
        choose_token,
        serving,
        wait_for_end,
    )

    say = partial(print, flush=True)
    run = take_run(options.run, under=options.out, takes_exported=True, log=say)
    place = Place(
        host=options.host,
        port=options.port,
        address=options.address,
        gpus=options.gpus,
        cpus=options.cpus,
        replicas=options.replicas,
    )
    check_place(place)
    token = choose_token(os.environ.get(TOKEN_VARIABLE), is_loopback=place.is_loopback)
    limits = Limits(
        max_bytes=int(options.max_megabytes * 2**20),
        max_pixels=int(options.max_megapixels * 1e6),
        max_queued=options.queue,
    )
    ray_log = options.out / "serve.log"
    make_folder(options.out)
    how: Any = {"token": token, "ray_log": ray_log, "log": say}
    with serving(run, place, limits, **how):
        secret = ""
        if token is not None and TOKEN_VARIABLE not in os.environ:
            print(f"token: {token} ({TOKEN_VARIABLE} sets another one)")
        if token is not None:
            secret = " -H 'Authorization: Bearer TOKEN'"
        print(f"what goes wrong within: {display_path(ray_log)}")
        print(f"try: curl{secret} --data-binary @PHOTOGRAPH.jpg {place.url}/photographs")
        print(
            f"listening on {place.url}, described at {place.url}/docs; Ctrl-C ends it", flush=True
        )
        wait_for_end()
    print("ended")
    return {"run": str(run), "url": place.url}
