"""Versions, artifacts, aliases, traffic, generations, servers."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    create_versions()
    create_traffic()


def create_versions() -> None:
    op.create_table(
        "changes",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("n", sa.Integer, nullable=False),
    )
    op.execute("INSERT INTO changes (id, n) VALUES (1, 0)")
    op.create_table(
        "versions",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("manifest", sa.Text, nullable=False),
        sa.Column("manifest_sha256", sa.Text, nullable=False),
        sa.Column("content_sha256", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.UniqueConstraint("model", "version", name="one_version_per_label"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "artifacts",
        sa.Column("sha256", sa.Text, primary_key=True),
        sa.Column("seq", sa.Integer, sa.ForeignKey("versions.seq"), primary_key=True),
    )
    op.create_table(
        "aliases",
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("alias", sa.Text, primary_key=True),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
        sa.Column("updated_by", sa.Text, nullable=False),
    )


def create_traffic() -> None:
    op.create_table(
        "traffic",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("weights", sa.Text, nullable=False),
        sa.Column("shadow", sa.Text),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("before", sa.Integer),
        sa.Index("traffic_of_model", "model", "id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "generations",
        sa.Column("n", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("state", sa.Text, nullable=False),
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
    op.create_table(
        "reports",
        sa.Column("generation", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("server_id", sa.Text, primary_key=True),
        sa.Column("ok", sa.Boolean, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
    )
    op.create_table(
        "servers",
        sa.Column("server_id", sa.Text, primary_key=True),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("generation", sa.Integer),
        sa.Column("ready", sa.Boolean, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("since", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
    )
