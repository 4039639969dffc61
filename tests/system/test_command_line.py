"""Goal: the programs refuse what is wrong with a message that names it, and exit with 0, 1 or 2.
Method: wrong command lines, names that do not exist, registries that do not answer, bad tokens.
"""
import socket
import subprocess

from kit import MB, Sources, SystemTest, programs_folder, tree


class Usage(SystemTest):
    def test_wrong_command_lines_exit_with_2(self):
        cases = ((("p2p-pull",), "REGISTRY_URL"),
                 (("p2p-pull", "http://127.0.0.1:1", "m"), "-o"),
                 (("p2p-pull", "http://127.0.0.1:1", "m", "-o", "x", "--frobnicate"), "frobnicate"),
                 (("p2p-pull", "http://127.0.0.1:1", "m", "-o", "x", "--no-holder-ms-max", "soon"),
                  "no-holder-ms-max"),
                 (("p2p-serve",), "PATH"),
                 (("p2p-serve", self.folder), "--model"),
                 (("p2p-meta", "--lease-ms", "1"), "--lease-ms"),
                 (("p2p-ls",), "REGISTRY_URL"),
                 (("p2p-channel", "http://127.0.0.1:1"), "MODEL"),
                 (("p2p-channel", "http://127.0.0.1:1", "m", "set"), "VERSION"),
                 (("p2p-channel", "http://127.0.0.1:1", "m", "upgrade"), "upgrade"))
        for command, named in cases:
            with self.subTest(command=command):
                program = self.start(*command)
                self.assert_fails(program, named, status=2)
                self.assertEqual(program.lines, [])

    def test_the_programs_need_no_library_that_a_bare_host_lacks(self):
        programs = [path for path in programs_folder().glob("p2p-*") if path.is_file()]
        self.assertGreater(len(programs), 5)
        for program in programs:
            told = subprocess.run(["objdump", "-p", program], capture_output=True, text=True,
                                  check=True).stdout
            needed = {line.split()[1].split(".so")[0] for line in told.splitlines()
                      if line.strip().startswith("NEEDED") and "ld-linux" not in line}
            self.assertLessEqual(needed, {"libc", "libm", "libxxhash"}, program)

    def test_who_wants_no_more_lines_is_not_complained_to(self):
        command = [programs_folder() / "p2p-plan", "show", "--receivers", "4000", "--bytes", "1G"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
            self.assertIn(b"4001 ranks", program.stdout.readline())
            program.stdout.close()
            self.assertEqual(program.stderr.read(), b"")
        self.assertEqual(program.returncode, 1)

    def test_output_that_cannot_be_written_is_an_error(self):
        with open("/dev/full", "wb") as full:
            done = subprocess.run([programs_folder() / "p2p-plan", "show", "--receivers", "4000",
                                   "--bytes", "1G"], stdout=full, stderr=subprocess.PIPE,
                                  check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"p2p-plan: cannot write to file", done.stderr)

    def test_help_and_version_exit_with_0(self):
        for name in ("p2p-serve", "p2p-pull", "p2p-ls", "p2p-meta", "p2p-plan", "p2p-channel"):
            for option in ("--help", "--version"):
                if (name, option) == ("p2p-serve", "--version"):
                    continue  # There it takes the number of the version to publish.
                with self.subTest(name=name, option=option):
                    program = self.run_program(name, option)
                    self.assertEqual(program.wait_end(), 0)
                    self.assertIn(name, program.lines[0])
                    self.assertEqual(program.messages, [])


class Files(SystemTest):
    """Files that options name: where hosts stand, and what peers are labelled."""

    def file(self, text: str):
        path = self.folder / "file"
        path.write_text(text)
        return path

    def test_a_registry_with_a_topology_hands_out_hints(self):
        topology = self.file('{"racks": [{"name": "r", "count": 2, "uplink": "1GB/s"}],'
                             '"ranks": [{"name": "h", "per_rack": 2, "port": "1GB/s"}]}')
        url = self.meta("--topology", topology, "--rack-label", "example.org/rack").url
        self.serve(Sources.get(2 * MB, 1, 1), registry=url)
        self.pull(url, "m", self.folder / "out")

    def test_wrong_topologies_are_refused_and_the_field_is_named(self):
        self.assert_fails(self.start("p2p-meta", "--topology", self.file('{"ranks": []}')), "ranks")
        self.assert_fails(self.start("p2p-meta", "--topology", "/nowhere"), "/nowhere")

    def test_labels_come_from_a_file(self):
        server = self.serve(Sources.get(2 * MB, 1, 1))
        labels = self.file('rack="r7"\nzone=z\n\nempty=""\n')
        self.pull(server.url, "m", self.folder / "out", "--labels-file", labels)
        for wrong in ("rack\n", "=r7\n", 'rack="r\\n"\n'):
            with self.subTest(wrong=wrong):
                pull = self.start_pull(server.url, "m", self.folder / "other", "--labels-file",
                                       self.file(wrong))
                self.assert_fails(pull, ":1:", "NAME=VALUE", status=2)
        pull = self.start_pull(server.url, "m", self.folder / "other", "--labels-file", "/nowhere")
        self.assert_fails(pull, "/nowhere", status=2)


class Names(SystemTest):
    def test_what_the_registry_does_not_know_is_named(self):
        server = self.serve(Sources.get(2 * MB, 1, 1))
        for reference, named in (("nosuch", "nosuch"), ("m@7", "m@7"), ("m:beta", "beta"),
                                 ("m@x", "@x"), ("a/../b", "a/../b")):
            with self.subTest(reference=reference):
                out = self.folder / "copy"
                self.assert_fails(self.start_pull(server.url, reference, out), named)
                self.assertFalse(out.exists())

    def test_a_source_that_is_not_there_is_named(self):
        self.assert_fails(self.start_serve(self.folder / "nowhere"), str(self.folder / "nowhere"))

    def test_bad_urls_and_dead_registries_are_named(self):
        with socket.socket() as bound:  # Bound but not listening: connections are refused.
            bound.bind(("127.0.0.1", 0))
            dead = f"http://127.0.0.1:{bound.getsockname()[1]}"
            for url in ("127.0.0.1:7070", "http://", "ftp://host:1", "http://host:99999", dead):
                with self.subTest(url=url):
                    self.assert_fails(self.start_pull(url, "m", self.folder / "copy"), url)

    def test_an_unknown_fabric_is_named(self):
        server = self.serve(Sources.get(2 * MB, 1, 1))
        pull = self.start_pull(server.url, "m", self.folder / "copy", "--fabric", "pigeon")
        self.assert_fails(pull, "pigeon")
        self.assert_fails(self.start_serve(Sources.get(2 * MB, 1, 1), "--fabric", "pigeon"),
                          "pigeon")

    def test_a_living_peers_name_is_refused_unless_taken_over(self):
        registry, source = self.meta(), Sources.get(2 * MB, 1, 1)
        self.serve(source, "--name", "publisher", registry=registry.url)
        second = self.start_serve(source, "--name", "publisher", registry=registry.url)
        self.assert_fails(second, "publisher")
        self.serve(source, "--name", "publisher", "--take-over", registry=registry.url)


class Tokens(SystemTest):
    def token(self, name: str, text: str, mode: int = 0o600):
        path = self.folder / name
        path.write_text(text + "\n")
        path.chmod(mode)
        return path

    def test_only_the_right_token_is_let_in(self):
        right = self.token("right", "a-long-enough-secret-of-the-cluster")
        wrong = self.token("wrong", "a-long-enough-secret-of-another-one")
        registry, source = self.meta("--token-file", right), Sources.get(2 * MB, 1, 1)
        self.serve(source, "--token-file", right, registry=registry.url)
        for arguments in ((), ("--token-file", wrong)):
            with self.subTest(arguments=arguments):
                out = self.folder / "refused"
                self.assert_fails(self.start_pull(registry.url, "m", out, *arguments), "token")
                self.assertFalse(out.exists())
                self.assert_fails(self.start("p2p-ls", registry.url, *arguments), "token")
                self.assert_fails(
                    self.start_serve(source, *arguments, registry=registry.url), "token")
        self.pull(registry.url, "m", self.folder / "copy", "--token-file", right)
        self.assertEqual(tree(self.folder / "copy"), tree(source))
        said = "\n".join(program.evidence() for program in self.programs)
        self.assertNotIn("secret", said)

    def test_token_files_that_others_can_read_are_refused(self):
        for mode in (0o644, 0o640, 0o604):
            with self.subTest(mode=oct(mode)):
                path = self.token("shown", "a-long-enough-secret-of-the-cluster", mode)
                self.assert_fails(self.start("p2p-meta", "--listen", "127.0.0.1:0", "--token-file",
                                             path), str(path))

    def test_token_files_that_hold_nothing_are_refused(self):
        for path in (self.token("empty", ""), self.folder / "missing"):
            with self.subTest(path=path.name):
                self.assert_fails(self.start("p2p-meta", "--listen", "127.0.0.1:0", "--token-file",
                                             path), str(path))
