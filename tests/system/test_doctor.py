"""Goal: p2p-doctor says what works, exits by it, and tries real reads with another one. Method: the
real programs, both sides on loopback over tcp, since RDMA is not everywhere.
"""
import contextlib
import json
import socket

from kit import SystemTest

SEVERITIES = ("ok", "note", "warning", "error")


class Examining(SystemTest):
    def test_findings_are_json_and_the_exit_status_is_theirs(self):
        doctor = self.run_program("p2p-doctor", "--json")
        findings = doctor.events()
        self.assertTrue(findings, doctor.evidence())
        for finding in findings:
            self.assertEqual(finding["event"], "finding")
            self.assertIn(finding["severity"], SEVERITIES)
            self.assertTrue(finding["topic"] and finding["text"], finding)
            self.assertIsInstance(finding["advice"], str)
        has_error = any(finding["severity"] == "error" for finding in findings)
        self.assertEqual(doctor.wait_end(), 1 if has_error else 0, doctor.evidence())
        self.assertEqual(bool(doctor.stderr()), has_error)
        self.assertTrue({"software", "device", "memory", "gpu"} <=
                        {finding["topic"] for finding in findings})

    def test_people_get_a_line_for_each_finding(self):
        lines = self.run_program("p2p-doctor").lines
        findings = self.run_program("p2p-doctor", "--json").events()
        stated = [line for line in lines if line.startswith("  ") and not line.startswith("   ")]
        self.assertEqual(len(stated), len(findings))
        self.assertIn("memory", lines)

    def test_wrong_command_lines_exit_with_2(self):
        for arguments, text in ((("--frobnicate",), "frobnicate"),
                                (("operand",), "positional"),
                                (("--peer", ""), "HOST"),
                                (("--peer", "host:port"), "HOST"),
                                (("--peer", "[::1"), "HOST"),
                                (("--peer", "host:65536"), "HOST"),
                                (("--peer", "a", "--listen", "127.0.0.1"), "exclude"),
                                (("--fabric", "tcp"), "--peer"),
                                (("--device", "mlx5_0"), "--peer"),
                                (("--listen", "127.0.0.1", "--from", "127.0.0.1"), "--peer"),
                                (("--peer", "a", "--fabric", "pigeon"), "pigeon")):
            with self.subTest(arguments=arguments):
                self.assert_fails(self.start("p2p-doctor", *arguments), text, status=2)


class Meeting(SystemTest):
    def listen(self, *arguments):
        doctor = self.start("p2p-doctor", "--listen", "127.0.0.1:0", "--json", *arguments)
        doctor.address = doctor.wait_event("ready")["address"]
        return doctor

    def meet(self, listener, *arguments):
        return self.run_program("p2p-doctor", "--peer", listener.address, "--json", *arguments)

    def assert_reads(self, events, peer):
        self.assertEqual({(event["by"], event["fabric"]) for event in events},
                         {("us", "tcp"), ("peer", "tcp")})
        for event in events:
            self.assertEqual((event["event"], event["ok"], event["error"]), ("read", True, ""))
            self.assertTrue(event["peer"].startswith(peer), event)
            self.assertGreater(event["bytes_per_second"], 0)
            self.assertGreater(event["latency_ns"], 0)

    def test_both_sides_read_from_each_other(self):
        listener = self.listen("--fabric", "tcp")
        for arguments in ((), ("--from", "127.0.0.1")):
            met = self.meet(listener, "--fabric", "tcp", *arguments)
            self.assertEqual(met.wait_end(), 0, met.evidence())
            self.assert_reads(met.events(), "127.0.0.1")
        listener.wait_for(lambda: True if len(listener.lines) >= 5 else None, "two meetings")
        self.assert_reads(listener.events()[1:3], "127.0.0.1:")
        self.assertEqual(listener.stop(), 0, listener.evidence())

    def test_people_are_told_how_it_went(self):
        listener = self.start("p2p-doctor", "--listen", "127.0.0.1:0", "--fabric", "tcp")
        line = listener.wait_for(lambda: next(iter(listener.lines), None), "its address")
        met = self.run_program("p2p-doctor", "--fabric", "tcp", "--peer", line.split()[-1])
        self.assertEqual(met.wait_end(), 0, met.evidence())
        self.assertEqual([said.split()[:2] for said in met.lines], [["ok", "tcp:"]] * 2)

    def test_a_fabric_that_the_peer_does_not_try_fails(self):
        listener = self.listen("--fabric", "tcp")
        met = self.meet(listener, "--fabric", "tcp", "--fabric", "shm")
        self.assertEqual(met.wait_end(), 1, met.evidence())
        outcomes = {(event["by"], event["fabric"]): event["ok"] for event in met.events()}
        self.assertEqual(outcomes, {("us", "tcp"): True, ("us", "shm"): False,
                                    ("peer", "tcp"): True})

    def test_a_listener_refuses_garbage_and_meets_the_next_peer(self):
        listener = self.listen("--fabric", "tcp")
        host, port = listener.address.rsplit(":", 1)
        for garbage in (b"GET / HTTP/1.0\r\n\r\n", b"{}\n", b"\x00\xff\n", b"[" * 40000, b""):
            with self.subTest(garbage=garbage[:20]), \
                    socket.create_connection((host, int(port)), timeout=30) as stranger:
                # It may close before all of the garbage is sent.
                with contextlib.suppress(OSError):
                    stranger.sendall(garbage)
                    stranger.shutdown(socket.SHUT_WR)
                answer = b""
                try:
                    while block := stranger.recv(4096):
                        answer += block
                except ConnectionResetError:
                    pass  # It hung up before it had read all.
                if b"\n" in garbage:
                    self.assertIn("error", json.loads(answer))
        met = self.meet(listener, "--fabric", "tcp")
        self.assertEqual(met.wait_end(), 0, met.evidence())
        self.assertTrue(all(message.startswith("p2p-doctor: 127.0.0.1:")
                            for message in listener.messages), listener.evidence())

    def test_a_peer_that_is_not_there_is_an_error(self):
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{bound.getsockname()[1]}"
            self.assert_fails(self.start("p2p-doctor", "--peer", address, "--fabric", "tcp"),
                              address)

    def test_a_peer_that_is_no_doctor_is_an_error(self):
        registry = self.meta()
        address = registry.url.removeprefix("http://")
        self.assert_fails(self.start("p2p-doctor", "--peer", address, "--fabric", "tcp"), "peer")
