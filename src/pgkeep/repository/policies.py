"""The least rights that a writer, a pruner and a reader of a repository need. Pure.

A *writer* adds and never takes away: it makes backups and syncs. A *pruner* deletes what expired,
and nothing that opens backups. A *reader* restores and verifies.
"""

from __future__ import annotations

from enum import StrEnum

from pgkeep.stores.remote import Place


class Role(StrEnum):
    """Who uses a repository, and for what."""

    WRITER = "writer"
    PRUNER = "pruner"
    READER = "reader"


_FACTS = (
    "s3:GetBucketAcl",
    "s3:GetBucketObjectLockConfiguration",
    "s3:GetBucketPolicyStatus",
    "s3:GetBucketPublicAccessBlock",
    "s3:GetBucketVersioning",
    "s3:GetLifecycleConfiguration",
)
# Refused even if another policy of the same user grants it.
_NEVER = (
    "s3:BypassGovernanceRetention",
    "s3:DeleteBucket",
    "s3:DeleteBucketPolicy",
    "s3:DeleteObjectVersion",
    "s3:PutBucketObjectLockConfiguration",
    "s3:PutBucketPolicy",
    "s3:PutBucketVersioning",
    "s3:PutLifecycleConfiguration",
    "s3:PutObjectLegalHold",
    "s3:PutObjectRetention",
)
_ALLOWED = {
    Role.WRITER: ("s3:GetObject", "s3:GetObjectRetention", "s3:PutObject"),
    Role.PRUNER: ("s3:GetObject",),
    Role.READER: ("s3:GetObject",),
}
# What a prune deletes: neither keys nor what describes the repository.
_PRUNED = ("objects/*", "condemned/*", "*/manifest.json", "*/manifest.json.sig")
_PLANS = "condemned/"

Statement = dict[str, object]


def s3_policy(role: Role, place: Place) -> dict[str, object]:
    """A policy of IAM for a user or role, for the whole of one repository."""
    bucket = f"arn:aws:s3:::{place.bucket}"
    inside = f"{bucket}/{place.prefix}"
    statements = [_list(place, bucket)]
    if role is not Role.READER:
        statements.append(_statement("Facts", _FACTS, bucket))
    statements.append(_statement("Objects", _ALLOWED[role], f"{inside}*"))
    if role is Role.PRUNER:
        pruned = tuple(inside + name for name in _PRUNED)
        statements.append(_statement("Delete", ("s3:DeleteObject",), *pruned))
        statements.append(_statement("Plans", ("s3:PutObject",), f"{inside}{_PLANS}*"))
    never = _NEVER if role is Role.PRUNER else ("s3:DeleteObject", *_NEVER)
    everything = (bucket, f"{bucket}/*")
    statements.append(_statement("Never", sorted(never), *everything, effect="Deny"))
    return {"Version": "2012-10-17", "Statement": statements}


def _list(place: Place, bucket: str) -> Statement:
    statement = _statement("List", ("s3:ListBucket",), bucket)
    if place.prefix:
        statement["Condition"] = {"StringLike": {"s3:prefix": f"{place.prefix}*"}}
    return statement


def _statement(
    name: str, actions: tuple[str, ...] | list[str], *resources: str, effect: str = "Allow"
) -> Statement:
    return {
        "Sid": f"Pgkeep{name}",
        "Effect": effect,
        "Action": list(actions),
        "Resource": list(resources) if len(resources) > 1 else resources[0],
    }


_GOOGLE = {
    Role.WRITER: (
        "storage.buckets.get",
        "storage.buckets.getIamPolicy",
        "storage.objects.create",
        "storage.objects.get",
        "storage.objects.list",
    ),
    Role.PRUNER: (
        "storage.buckets.get",
        "storage.buckets.getIamPolicy",
        "storage.objects.delete",
        "storage.objects.get",
        "storage.objects.list",
    ),
    Role.READER: ("storage.objects.get", "storage.objects.list"),
}


def google_commands(role: Role, place: Place) -> tuple[str, ...]:
    """Commands that make a role of one's own and bind an account to it, in this bucket alone.

    `$PROJECT` and `$ACCOUNT` are for the one who runs them to set.
    """
    name = f"pgkeep{role.capitalize()}"
    commands = [
        f'gcloud iam roles create {name} --project="$PROJECT" --stage=GA'
        f" --permissions={','.join(_GOOGLE[role])}",
        _binding(place, f"projects/$PROJECT/roles/{name}", _within(place, "")),
    ]
    if role is Role.PRUNER:
        commands.append(_binding(place, "roles/storage.objectCreator", _within(place, _PLANS)))
    return tuple(commands)


def _binding(place: Place, role: str, condition: str) -> str:
    wanted = f" --condition='title=pgkeep,expression={condition}'" if condition else ""
    return (
        f"gcloud storage buckets add-iam-policy-binding gs://{place.bucket}"
        f' --member="serviceAccount:$ACCOUNT" --role="{role}"{wanted}'
    )


def _within(place: Place, folder: str) -> str:
    """The condition that keeps a binding to a folder; the bucket itself, for listings, included."""
    begin = place.prefix + folder
    if not begin:
        return ""
    objects = f'resource.name.startsWith("projects/_/buckets/{place.bucket}/objects/{begin}")'
    if folder:
        return objects
    return f'resource.type == "storage.googleapis.com/Bucket" || {objects}'


def folder_advice(role: Role, path: str) -> tuple[str, ...]:
    """What can be done for a folder: a file system has no right to add and not to delete."""
    if role is Role.READER:
        return (
            f"{path}: files are 0600, so a reader is the same user as the writer, or root.",
            "Mount the disk read-only on the machine that restores, or copy the folder there.",
        )
    if role is Role.PRUNER:
        return (f"{path}: whoever writes to a folder may delete there: a pruner is the writer.",)
    return (
        f"install -d -m 700 -o pgkeep {path}",
        f"{path}: whoever writes to a folder may delete there. To keep backups from a thief of this"
        " machine, take snapshots of the disk, or keep another copy in a bucket that locks.",
    )
