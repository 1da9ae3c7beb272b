"""moto's DynamoDB on a port, until standard input ends; see server.rs.

What is changed is how long it takes: a stock moto copies the whole table for every action of a
transaction, walks through all of it for a query of one partition, and looks for ten spellings of each
attribute that it answers. And each request has the tables to itself, but none waits for a client that
is slow to send its own.
"""

import copy, io, os, sys, threading
from collections import defaultdict
from inspect import signature
from flask import request
from moto.core.serialize import ResponseSerializer
from moto.dynamodb.models import DynamoDBBackend
from moto.dynamodb.models.table import Table
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import BaseWSGIServer, run_simple

query = Table.query
update_item = DynamoDBBackend.update_item
serialize_structure = ResponseSerializer._serialize_type_structure


def update_a_copy(self, table_name, key, *arguments, **named):
    """Items never change in place, so that the copy of a table may share them."""
    table = self.get_table(table_name)
    hash_key, range_key = self.get_keys_value(table, key)
    item = table.get_item(hash_key, range_key)
    if item is not None:
        table.items[hash_key][range_key] = copy.deepcopy(item)
    return update_item(self, table_name, key, *arguments, **named)


def query_a_partition(self, *arguments, **named):
    asked = signature(query).bind(self, *arguments, **named).arguments
    if asked["index_name"] is None:
        partition = asked["hash_key"]
        self = copy.copy(self)
        self.items = {partition: self.items.get(partition, {})}
    return query(self, *arguments, **named)


def copied(table, memo):
    """What a transaction puts back if it fails, made once per transaction."""
    copies = request.environ.setdefault("copies", {})
    if table.name not in copies:
        copies[table.name] = twin = copy.copy(table)
        twin.items = defaultdict(dict, {key: dict(items) for key, items in table.items.items()})
    return copies[table.name]


def as_it_is(self, serialized, value, shape, key):
    """An attribute's value is kept in the form in which it is answered."""
    if shape.name == "AttributeValue" and isinstance(value, dict):
        self._default_serialize(serialized, value, shape, key)
    else:
        serialize_structure(self, serialized, value, shape, key)


def alone(app):
    turn = threading.Lock()

    def call(environ, start_response):
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        with turn:
            return [b"".join(app(environ, start_response))]

    return call


app = DomainDispatcherApplication(create_backend_app)
BaseWSGIServer.request_queue_size = 4096
DynamoDBBackend.update_item = update_a_copy
Table.__deepcopy__ = copied
Table.query = query_a_partition
ResponseSerializer._serialize_type_structure = as_it_is
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
run_simple("127.0.0.1", int(sys.argv[1]), alone(app), threaded=True)
