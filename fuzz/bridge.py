"""Lets clients that speak TCP only reach a unix socket: bridge.py SOCKET PORT-FILE"""

import socket
import sys
import threading


def pump(source, target):
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass
    finally:
        try:
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass


def serve(client, path):
    server = socket.socket(socket.AF_UNIX)
    server.connect(path)
    threading.Thread(target=pump, args=(client, server), daemon=True).start()
    pump(server, client)
    client.close()
    server.close()


listener = socket.create_server(("127.0.0.1", 0), backlog=128)
with open(sys.argv[2], "w") as port:
    port.write(str(listener.getsockname()[1]))
while True:
    accepted, _ = listener.accept()
    threading.Thread(target=serve, args=(accepted, sys.argv[1]), daemon=True).start()
