-- Health of an AutoMLJob for Argo CD, from its conditions.
-- Healthy: the job has what it asked for (Ready). Degraded: it was refused, failed, or its endpoint does not answer.
-- Suspended: spec.suspend, or a queue holds it. Progressing: everything else, with what holds it up, if something does.
if obj.metadata.deletionTimestamp ~= nil then
  return { status = "Progressing", message = "being deleted" }
end
local status = obj.status or {}
if status.conditions == nil then
  return { status = "Progressing", message = "the operator has not looked at it yet" }
end
if status.observedGeneration ~= nil and status.observedGeneration ~= obj.metadata.generation then
  return { status = "Progressing", message = "the operator has not looked at the last change yet" }
end

local found = {}
for _, condition in ipairs(status.conditions) do
  found[condition.type] = condition
end
local function is(kind, value)
  return found[kind] ~= nil and found[kind].status == value
end
local function say(health, kind)
  local message = found[kind].message
  if message == nil or message == "" then
    message = found[kind].reason
  end
  return { status = health, message = message }
end

if is("Accepted", "False") then
  return say("Degraded", "Accepted")
end
if is("Succeeded", "False") then
  return say("Degraded", "Succeeded")
end
if is("Ready", "True") then
  return say("Healthy", "Ready")
end
if is("Ready", "False") then
  return say("Degraded", "Ready")
end
if is("Admitted", "False") then
  return say("Suspended", "Admitted")
end
if is("Stalled", "True") then
  return say("Progressing", "Stalled")
end
if found["Succeeded"] ~= nil and not is("Succeeded", "True") then
  return say("Progressing", "Succeeded")
end
if found["Ready"] ~= nil then
  return say("Progressing", "Ready")
end
return { status = "Progressing", message = "the operator has begun" }
