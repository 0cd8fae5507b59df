"""The tables of the catalog. Times are Unix seconds, by the clock of the database."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

keys = sa.Table(
    "keys",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("scopes", sa.Text, nullable=False),  # JSON list
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("expires_at", sa.Double),
    sa.Column("revoked_at", sa.Double),
    sa.Column("revoked_by", sa.Text),
)

settings = sa.Table(
    "settings",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),  # JSON
    sa.Column("updated_at", sa.Double, nullable=False),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("what", sa.Text, nullable=False),  # "key.create"
    sa.Column("subject", sa.Text, nullable=False),  # the key's id, "churn@3"
    sa.Column("details", sa.Text, nullable=False),  # JSON object, never a secret
    sqlite_autoincrement=True,
)

changes = sa.Table(
    "changes",
    metadata,
    # one row, counted up by every write that others should look at: renewing a lease is none
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("n", sa.Integer, nullable=False),
)

versions = sa.Table(
    "versions",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),  # "ready", "retired"
    sa.Column("manifest", sa.Text, nullable=False),  # the bytes that manifest_sha256 is of
    sa.Column("manifest_sha256", sa.Text, nullable=False),
    sa.Column("content_sha256", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.UniqueConstraint("model", "version", name="one_version_per_label"),
    sqlite_autoincrement=True,
)

artifacts = sa.Table(
    "artifacts",
    metadata,
    # which stored objects a version needs; what stands in no row here may be collected
    sa.Column("sha256", sa.Text, primary_key=True),
    sa.Column("seq", sa.Integer, sa.ForeignKey("versions.seq"), primary_key=True),
)

aliases = sa.Table(
    "aliases",
    metadata,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("alias", sa.Text, primary_key=True),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("updated_at", sa.Double, nullable=False),
    sa.Column("updated_by", sa.Text, nullable=False),
)

traffic = sa.Table(
    "traffic",
    metadata,
    # rows are only ever added; the last one of a model counts
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("weights", sa.Text, nullable=False),  # JSON object, version → percent
    sa.Column("shadow", sa.Text),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("before", sa.Integer),  # the row that a rollback from here restores
    sa.Index("traffic_of_model", "model", "id"),
    sqlite_autoincrement=True,
)

generations = sa.Table(
    "generations",
    metadata,
    # one proposed change of traffic, and what became of it
    sa.Column("n", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("state", sa.Text, nullable=False),  # "prepare", "committed", "failed", "expired"
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("weights", sa.Text, nullable=False),
    sa.Column("shadow", sa.Text),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("before", sa.Integer),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("decided_at", sa.Double),
    sa.Index(
        "one_in_preparation",
        "state",
        unique=True,
        sqlite_where=sa.text("state = 'prepare'"),
        postgresql_where=sa.text("state = 'prepare'"),
    ),
)

reports = sa.Table(
    "reports",
    metadata,
    sa.Column("generation", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("server_id", sa.Text, primary_key=True),
    sa.Column("ok", sa.Boolean, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
)

servers = sa.Table(
    "servers",
    metadata,
    sa.Column("server_id", sa.Text, primary_key=True),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("generation", sa.Integer),  # what it serves; null while it starts
    sa.Column("ready", sa.Boolean, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("since", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False),
)
