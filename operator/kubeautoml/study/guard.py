"""Lets a call pass only if its caller is known and may touch the study that it concerns."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import grpc
from optuna.storages._grpc.auto_generated import api_pb2

from kubeautoml.api.errors import ClusterError
from kubeautoml.study.access import Access
from kubeautoml.study.backend import Database
from kubeautoml.study.identity import Caller, Callers, Forbidden, Unauthenticated
from kubeautoml.study.monitor import HEALTH_SERVICE, Metrics

log = logging.getLogger(__name__)


class Guard(grpc.ServerInterceptor):  # type: ignore[misc]  # grpc is read without types
    """Stands before every call but health's."""

    def __init__(self, callers: Callers, database: Database, metrics: Metrics) -> None:
        self._callers, self._database, self._metrics = callers, database, metrics
        self._access = Access(database)

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        handler = continuation(details)
        service, _, call = details.method.lstrip("/").partition("/")
        if handler is None or service == HEALTH_SERVICE:
            return handler
        authorization = dict(details.invocation_metadata or ()).get("authorization", "")

        def behave(request: Any, context: Any) -> Any:
            caller = self._admit(authorization, call, request, context)
            if call == "GetAllStudies" and not caller.is_operator:
                return self._visible(caller)
            return handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(behave, handler.request_deserializer, handler.response_serializer)

    def _admit(self, authorization: str, call: str, request: Any, context: Any) -> Caller:
        caller: Caller | None = None
        try:
            caller = self._callers.identify(authorization)
            self._access.check(caller, call, request)
            return caller
        except Unauthenticated as error:
            self._deny(error, "unauthenticated", call, None, context)
            context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
        except Forbidden as error:
            self._deny(error, "forbidden", call, caller, context)
            context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
        except ClusterError:
            context.abort(grpc.StatusCode.UNAVAILABLE, "the API server did not say whose token this is; try again")
        raise AssertionError("abort does not return")

    def _deny(self, error: Exception, reason: str, call: str, caller: Caller | None, context: Any) -> None:
        self._metrics.denied.labels(call, reason).inc()
        who = {"namespace": caller.namespace, "pod": caller.pod} if caller else {"peer": context.peer()}
        log.warning("call was denied", extra={"method": call, "reason": reason, "why": str(error), **who})

    def _visible(self, caller: Caller) -> Any:
        """What a pod may see of all studies: its own, and those that it may read."""
        own = self._access.own_study(caller)
        names = {*self._access.readable(caller), *((own,) if own is not None else ())}
        return api_pb2.GetAllStudiesReply(studies=self._database.describe_studies(sorted(names)))
