-- Health of an AutoMLModel for Argo CD: whether it can be used as its job asked for, served or stored.
local conditions = (obj.status or {}).conditions or {}
for _, condition in ipairs(conditions) do
  if condition.type == "Ready" then
    local message = condition.message
    if message == nil or message == "" then
      message = condition.reason
    end
    if condition.status == "True" then
      return { status = "Healthy", message = message }
    end
    if condition.status == "False" then
      return { status = "Degraded", message = message }
    end
    return { status = "Progressing", message = message }
  end
end
return { status = "Progressing", message = "the operator has not looked at it yet" }
