import time, collections
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import from_schema, events
from tests.service.conftest import *
def test_x(founded):
    r=founded
    doc=r("GET","/openapi.json").json()
    cfg=SchemathesisConfig.from_dict({"seed":1,
      "base-url": r.url, "generation":{"deterministic":True,"max-examples":15,"no-shrink":True,"database":"none"},
      "phases":{"stateful":{"enabled":False}}, "continue-on-failure": True,
      "warnings": False})
    schema=schemathesis.openapi.from_dict(doc,config=cfg)
    @schema.auth(refresh_interval=None)
    class K:
        def get(self, case, context):
            role=(case.operation.definition.raw.get("x-roles") or [None])[0]
            return role and r.keys[role]
        def set(self, case, data, context):
            if data: case.headers["Authorization"]="Bearer "+data
    t=time.time(); n=0; fails=collections.Counter(); shown=set()
    for e in from_schema(schema).execute():
        nm=type(e).__name__
        if nm=="PhaseFinished": print(e.phase, e.status, time.time()-t)
        if nm in("NonFatalError","FatalError"): print(nm, str(getattr(e,"value",e))[:600], getattr(e,"label",""))
        if nm=="ScenarioFinished":
            for cid, checks in e.recorder.checks.items():
                n+=1
                for c in checks:
                    if c.failure_info is not None:
                        f=c.failure_info.failure
                        key=(e.recorder.label, c.name, f.title, str(f.message)[:150])
                        fails[key]+=1
    print(n, time.time()-t)
    for k,v in fails.most_common(60): print(v,k)
    r.checked=False
