"""Every mutation of Dagster's GraphQL schema as a request that would do something, made from the schema itself."""

from __future__ import annotations

from typing import Any

from graphql import (
    GraphQLEnumType,
    GraphQLInputObjectType,
    GraphQLInputType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLSchema,
    get_named_type,
    is_composite_type,
)

_PLACEHOLDERS: dict[str, Any] = {"String": "x", "ID": "x", "Int": 1, "Float": 1.0, "Boolean": True}


def mutation_requests(schema: GraphQLSchema, known: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """GraphQL request (query, variables) by name of the mutation.

    Parameters
    ----------
    schema : GraphQLSchema
    known : dict
        Values by the name of an argument or of a field of an input, e.g. ``sensorName``; of what is not in it, only what
        must be there is filled, with a placeholder.
    """
    mutation = schema.mutation_type
    assert mutation is not None
    requests = {}
    for name, field in mutation.fields.items():
        given = {key: argument for key, argument in field.args.items() if _is_wanted(key, argument.type, known)}
        declared = ", ".join(f"${key}: {argument.type}" for key, argument in given.items())
        passed = ", ".join(f"{key}: ${key}" for key in given)
        answer = " { __typename }" if is_composite_type(get_named_type(field.type)) else ""
        head = f"mutation({declared})" if declared else "mutation"
        query = f"{head} {{ {name}{f'({passed})' if passed else ''}{answer} }}"
        variables = {key: _value(key, argument.type, known) for key, argument in given.items()}
        requests[name] = {"query": query, "variables": variables}
    return requests


def _is_wanted(name: str, kind: GraphQLInputType, known: dict[str, Any]) -> bool:
    return isinstance(kind, GraphQLNonNull) or name in known


def _value(name: str, kind: GraphQLInputType, known: dict[str, Any]) -> Any:
    if name in known:
        return known[name]
    if isinstance(kind, GraphQLNonNull):
        return _value(name, kind.of_type, known)
    if isinstance(kind, GraphQLList):
        return [_value(name, kind.of_type, known)]
    if isinstance(kind, GraphQLInputObjectType):
        fields = kind.fields.items()
        return {key: _value(key, field.type, known) for key, field in fields if _is_wanted(key, field.type, known)}
    if isinstance(kind, GraphQLEnumType):
        return next(iter(kind.values))
    return _PLACEHOLDERS.get(str(kind), "x")
