-- Asks Revocast whether the session of a request is good, and leaves the answer
-- in variables of the transaction. HAProxy has no such request built in.
local url = "http://127.0.0.1:8080/v1/verify" -- ?app=shop lets in only the sessions of one app

core.register_action("verify_session", { "http-req" }, function(txn)
	txn:set_var("txn.session_status", 503) -- whatever goes wrong below, nobody is let in
	local sent, headers = txn.http:req_get_headers(), { host = { "revocast" } }
	for _, name in ipairs({ "authorization", "cookie" }) do -- what may bear a credential, and nothing else
		if sent[name] then
			headers[name] = {}
			for i = 0, #sent[name] do
				table.insert(headers[name], sent[name][i])
			end
		end
	end
	local answer = core.httpclient():get({ url = url, headers = headers, timeout = 2000 })
	if not answer or not answer.status then
		return
	end
	txn:set_var("txn.session_status", answer.status)
	for _, name in ipairs({ "id", "user", "app", "expires", "reason" }) do
		local value = answer.headers["x-session-" .. name]
		txn:set_var("txn.session_" .. name, value and value[0] or "-")
	end
	local challenge = answer.headers["www-authenticate"]
	txn:set_var("txn.session_challenge", challenge and challenge[0] or "Bearer")
end)
