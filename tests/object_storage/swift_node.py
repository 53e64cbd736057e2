"""OpenStack Swift with its S3 API on one port, all four servers in one process: run by Debian's Python with a folder and a port.

Swift is an object store that observatories run; its packages are Debian's. Rings with one device and one replica are
written here; objects lie in the folder and survive the process.
"""

import sys
from pathlib import Path

import eventlet

eventlet.monkey_patch()

from eventlet import wsgi  # noqa: E402
from swift.common import utils  # noqa: E402

utils.HASH_PATH_PREFIX, utils.HASH_PATH_SUFFIX = b"", b"contimg-tests"  # instead of /etc/swift/swift.conf

from swift.common.ring import RingBuilder  # noqa: E402
from swift.common.storage_policy import POLICIES  # noqa: E402
from swift.common.wsgi import loadapp  # noqa: E402

BACKEND = """[DEFAULT]
devices = {folder}/devices
mount_check = false
swift_dir = {folder}
fallocate_reserve = 0
disable_fallocate = true
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""
PROXY = """[DEFAULT]
swift_dir = {folder}
[pipeline:main]
pipeline = catch_errors cache s3api tempauth slo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:1
error_suppression_limit = 1
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
min_segment_size = 1048576
[filter:tempauth]
use = egg:swift#tempauth
user_test_writer = secret-of-tests .admin
[filter:slo]
use = egg:swift#slo
"""


def main(folder: Path, port: int) -> None:
    """Serve until killed."""
    (folder / "devices" / "disk").mkdir(parents=True, exist_ok=True)
    for kind in ("account", "container", "object"):
        listener = eventlet.listen(("127.0.0.1", 0))
        builder = RingBuilder(2, 1, 0)
        device = {
            "id": 0,
            "region": 1,
            "zone": 1,
            "ip": "127.0.0.1",
            "port": listener.getsockname()[1],
            "device": "disk",
            "weight": 1,
        }
        builder.add_dev({**device, "replication_ip": device["ip"], "replication_port": device["port"], "meta": ""})
        builder.rebalance()
        builder.get_ring().save(str(folder / f"{kind}.ring.gz"))
        serve(folder, kind, BACKEND.format(folder=folder, kind=kind), listener)
    for policy in POLICIES:
        policy.object_ring = None
    serve(folder, "proxy", PROXY.format(folder=folder), eventlet.listen(("127.0.0.1", port))).wait()


def serve(folder, kind, configuration, listener):
    """Start one of the servers in a green thread."""
    path = folder / f"{kind}.conf"
    path.write_text(configuration)
    return eventlet.spawn(wsgi.server, listener, with_lengths(loadapp(str(path))), log_output=False)


def with_lengths(application):
    """Let every answer to HEAD have a length: Debian's eventlet ends one without by a chunk, which is no HTTP."""

    def answer(environ, start_response):
        def start(status, headers, exc_info=None):
            names = {name.lower() for name, _ in headers}
            if environ["REQUEST_METHOD"] == "HEAD" and "content-length" not in names:
                headers = [*headers, ("Content-Length", "0")]
            return start_response(status, headers, exc_info)

        return application(environ, start)

    return answer


main(Path(sys.argv[1]), int(sys.argv[2]))
