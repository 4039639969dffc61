#!/usr/bin/env python3
"""A peer of BitTorrent, by libtorrent: torrent.py TORRENT FOLDER ADDRESS OTHER...

It prints that it is loaded, waits for a line, serves and takes what is missing in the folder,
prints "done" when all is there, and goes on serving.

torrent.py --make FILE TORRENT makes the description of a file."""

import sys

import libtorrent

PORT = 6881
PIECE_BYTES = 256 << 10
SETTINGS = {
    # Only the peers that it is told of, by plain TCP.
    "enable_dht": False, "enable_lsd": False, "enable_upnp": False, "enable_natpmp": False,
    "enable_incoming_utp": False, "enable_outgoing_utp": False, "in_enc_policy": 2,
    "out_enc_policy": 2, "allow_multiple_connections_per_ip": True,
    # Everybody with everybody, at once: the defaults begin slowly, for the internet.
    "connection_speed": 1000, "connections_limit": 500, "torrent_connect_boost": 255,
    "min_reconnect_time": 1,
    "unchoke_slots_limit": -1, "unchoke_interval": 1, "optimistic_unchoke_interval": 2,
    "tick_interval": 100, "max_out_request_queue": 2000, "max_allowed_in_request_queue": 4000,
    "request_queue_time": 1, "send_buffer_watermark": 4 << 20,
    "send_buffer_low_watermark": 256 << 10, "send_buffer_watermark_factor": 150,
    "aio_threads": 1, "hashing_threads": 1,
    "alert_mask": libtorrent.alert.category_t.status_notification
    | libtorrent.alert.category_t.error_notification}


def make(file, torrent):
    storage = libtorrent.file_storage()
    libtorrent.add_files(storage, file)
    made = libtorrent.create_torrent(storage, piece_size=PIECE_BYTES)
    libtorrent.set_piece_hashes(made, file.rpartition("/")[0])
    with open(torrent, "wb") as out:
        out.write(libtorrent.bencode(made.generate()))


def serve_and_take(torrent, folder, address, others):
    print("loaded", flush=True)
    sys.stdin.readline()
    session = libtorrent.session({**SETTINGS, "listen_interfaces": f"{address}:{PORT}"})
    parameters = libtorrent.add_torrent_params()
    parameters.ti = libtorrent.torrent_info(torrent)
    parameters.save_path = folder
    parameters.flags &= ~(libtorrent.torrent_flags.auto_managed | libtorrent.torrent_flags.paused)
    # Those it knows when it begins it connects to at once, others only with a tick each second.
    parameters.peers = [(other, PORT) for other in others]
    session.add_torrent(parameters)
    while True:
        session.wait_for_alert(1000)
        for alert in session.pop_alerts():
            if isinstance(alert, libtorrent.torrent_finished_alert):
                print("done", flush=True)
            elif isinstance(alert, libtorrent.torrent_error_alert):
                print(alert.message(), file=sys.stderr, flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--make":
        make(sys.argv[2], sys.argv[3])
    else:
        serve_and_take(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
