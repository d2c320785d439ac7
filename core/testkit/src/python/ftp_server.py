# Serves a folder by pyftpdlib: KIND ROOT FOLDER-WITH-CERTIFICATE USER PASSWORD. Prints its port.
import sys

from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler, TLS_FTPHandler
from pyftpdlib.servers import ThreadedFTPServer

kind, root, folder, user, password = sys.argv[1:6]
authorizer = DummyAuthorizer()
authorizer.add_user(user, password, root, perm="elradfmwMT")


class Explicit(TLS_FTPHandler):
    certfile = folder + "/both.pem"
    tls_control_required = True
    tls_data_required = True


class Implicit(Explicit):
    # TLS begins with the first byte, so the greeting is said within it.
    def handle(self):
        self.secure_connection(self.get_ssl_context())

    def handle_ssl_established(self):
        TLS_FTPHandler.handle(self)


handler = {"plain": FTPHandler, "explicit": Explicit, "implicit": Implicit}[kind]
handler.authorizer = authorizer
handler.max_login_attempts = 1000
handler.auth_failed_timeout = 0
handler.use_gmt_times = True
server = ThreadedFTPServer(("127.0.0.1", 0), handler)
server.max_cons = 1000
server.max_cons_per_ip = 0
print("listening on", server.socket.getsockname()[1], flush=True)
server.serve_forever(handle_exit=False)
