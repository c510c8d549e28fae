## The default filters (page.py) make each ${value} printable and escape it as HTML. Never switch them off.
<!doctype html>
<%
  reload_seconds = 10 if status.ready else 2
  icon_colour = {"ok": "%232e9e5b", "busy": "%233b7dd8", "warn": "%23d98a1f", "bad": "%23d3382f"}[tone]
%>\
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="${reload_seconds}"><title>${headline} · ${status.instance}</title>
## Without an icon a browser requests /favicon.ico.
<link rel="icon" href="data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'>\
<circle cx='8' cy='8' r='7' fill='${icon_colour}'/></svg>">
<style>
:root { color-scheme: light dark; --back: #f5f5f2; --card: #fff; --line: #dfe1dd; --text: #1c2024; --soft: #59616b;
  --rail: #e4e6e2; --ok: #1a6e3c; --busy: #1f5fae; --warn: #8a5200; --bad: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --back: #131518; --card: #1b1e23; --line: #2e333a; --text: #e7e9ec; --soft: #a4acb6;
    --rail: #30353d; --ok: #6fcf8d; --busy: #8ab8ff; --warn: #f0b65c; --bad: #ff8d83; } }
body { margin: 0; padding: 1rem .75rem 2rem; background: var(--back); color: var(--text); overflow-wrap: anywhere;
  font: 1rem/1.45 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; font-variant-numeric: tabular-nums; }
main { max-width: 44rem; margin: 0 auto; display: grid; grid-template-columns: minmax(0, 1fr); gap: .75rem; }
header, section { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .8rem 1rem; }
header { border-left: .35rem solid var(--tone); } header dl { margin-top: .5rem; } footer { padding: 0 .25rem; }
h1 { font-size: 1.35rem; line-height: 1.25; margin: 0; color: var(--tone); }
h2 { font-size: .8rem; letter-spacing: .05em; text-transform: uppercase; color: var(--soft); margin: 0 0 .5rem; }
p { margin: .35rem 0 0; } ol, ul { list-style: none; margin: 0; padding: 0; } p + ol { margin-top: .5rem; }
li + li { border-top: 1px solid var(--line); margin-top: .5rem; padding-top: .5rem; }
code, pre { font: .9em ui-monospace, "SF Mono", Menlo, Consolas, monospace; unicode-bidi: isolate; }
pre { white-space: pre-wrap; margin: .5rem 0 0; padding: .5rem .6rem; background: var(--back); border-radius: .4rem; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .15rem .9rem; margin: 0; }
dt { color: var(--soft); } dd { margin: 0; } svg .rail { fill: var(--rail); } svg .bar { fill: var(--tone); }
progress { appearance: none; display: block; width: 100%; height: .55rem; border: 0; border-radius: .3rem;
  overflow: hidden; margin: .45rem 0; background: var(--rail); }
progress::-webkit-progress-bar { background: var(--rail); } progress::-moz-progress-bar { background: var(--busy); }
progress::-webkit-progress-value { background: var(--busy); border-radius: .3rem; }
svg { display: block; width: 100%; height: .4rem; margin-top: .3rem; }
.ok { --tone: var(--ok); } .busy { --tone: var(--busy); } .warn { --tone: var(--warn); } .bad { --tone: var(--bad); }
* { box-sizing: border-box; } .alert { border-color: var(--tone); } .alert h2 { color: var(--tone); }
.role { color: var(--tone, var(--soft)); font-weight: 600; } .big { font-size: 1.1rem; font-weight: 600; }
.row { display: flex; flex-wrap: wrap; gap: 0 .75rem; justify-content: space-between; align-items: baseline; }
.row > * { min-width: 0; } .soft, footer { color: var(--soft); font-size: .875rem; } .past { color: var(--soft); }
</style></head>
<body><main><header class="${tone}"><h1>${headline}</h1>
${optional("p", summary)}
${optional("p", status.limit and f"{countdown[0].upper()}{countdown[1:]}.")}</header>
## The sections that a person may have to act on come first.
<%self:section title="What to do" class_="${tone in ('warn', 'bad') and 'alert ' + tone or ''}" given="${advice}">
<p>${advice.text}</p>
% for command in advice.commands:
<pre>${command}</pre>
% endfor
<p class="soft">${joined(". ", advice.urls, f"Runbook: {advice.runbook}")}</p></%self:section>
<%self:section title="Blocked by" class_="alert warn" given="${lock.blocked_by}"><ul>
% for one in lock.blocked_by:
<li><div class="row"><span class="big">${one.application or "unnamed session"}</span><code>pid ${one.pid}</code></div>
<dl>${fact("state", not one.lacks and joined(" for ", one.state or "hidden from this role", duration(one.seconds)))}
${fact("sessions", one.lacks and one.sessions)}
${fact("user", one.user or "hidden from this role")}
${fact("blocks", f"the migration, until its instance stops, because its build lacks {one.lacks}" if one.lacks else
  f"the migration, which needs {one.mode} on {one.relation}" if one.relation else
  "the migration, until this session's transaction ends")}
</dl></li>
% endfor
</ul></%self:section>
<%self:section title="INVALID indexes" class_="alert warn" given="${status.invalid_indexes}">
<pre>${index_advice(status.invalid_indexes)}</pre></%self:section>
<%self:section title="State">
<%
  heads = "" if schema.heads in (set(), schema.revisions) else names(schema.heads)
  unread = schema.state == "unknown"
  out, read = status.unreachable_since, status.read_at
  states = {"behind": "behind this build", "ahead": "ahead of this build", "diverged": "diverged from this build",
    "dirty": "half applied", "unversioned": "tables, but no revision"}
  until = status.limit and f"retried until {clock(status.limit.at)}" or status.held and "still retried"
%>
<dl>${fact("unreachable", out and joined(", ", f"since {clock(out)} ({duration(now - out)})", until))}
% if unread:
${fact("database", "not read yet")}
% else:
<dt>database</dt><dd><code>${names(schema.revisions)}</code>${heads and " → "}<code>${heads}</code></dd>
${fact("schema", states.get(schema.state, schema.state.replace("_", " ")))}
${fact("read", (failed or out) and read and f"{clock(read)}, {duration(now - read)} ago")}
% endif
${fact("phase", status.phase)}</dl>
${optional("p", status.held and "This instance looks at the database every few seconds, and becomes ready when it is at head.")}
${optional("p", status.message != summary and status.message)}</%self:section>
<%self:section title="Version tables" given="${status.scopes}"><dl>
% for name, one in status.scopes.items():
${fact(name, f"{names(one.revisions)}, {len(one.pending)} pending")}
% endfor
</dl></%self:section>
<%self:section title="Pending revisions" given="${schema.pending and not status.ready}">
<%
  (applied, left), progress, statement = split(status), status.progress, lock.statement
  done, total, wait = progress.applied, progress.total or len(schema.pending), (progress.next_try_at or 0) - now
  attempt = f"the next attempt is in {duration(wait)}" if wait > 0 else "the next attempt is running"
  read = status.read_at
  before = ", before the failure" if failed and (read or 0) < status.since else ""
%>
% if failed:
<p class="soft">${f"As read at {clock(read)}{before}." if read else "As read before the failure."}</p>
% else:
${done} of ${total} applied
<progress max="${total}" value="${done}" aria-label="${done} of ${total} applied"></progress>
% endif
<ol>
% for name in () if failed else applied[-3:]:
<li class="past"><code class="past">${name}</code> applied</li>
% endfor
% for name in left[:shown]:
% if name != progress.current:
<li><code>${name}</code></li>
% else:
<li aria-current="step"><code>${name}</code>
<span class="role busy">${"now" if lock.holder or status.phase == "migrating" else "next"}</span>
${optional("p", statement)}
% if statement and statement.percent is not None:
<progress max="100" value="${f"{statement.percent:.1f}"}" \
aria-label="${statement.phase or statement.kind}: ${f"{statement.percent:.0f}"} %"></progress>
% endif
${optional("p", progress.attempt and f"attempt {progress.attempt} did not acquire its table lock; {attempt}")}
</li>
% endif
% endfor
</ol>${optional("p", len(left) > shown and f"and {len(left) - shown} more", "soft")}</%self:section>
<%self:section title="Lock" given="${lock.holder}">
<%
  holder, session = lock.holder, status.holder_kind == "session"
  state = holder.state or (lock.grant and "state hidden")
  since = holder.since and f"{clock(holder.since)}, {duration(now - holder.since)} ago"
%>
<dl><dt>held by</dt><dd><span class="big">${holder.instance}</span></dd>
% if holder.pid:
<dt>${"session" if session else "process"}</dt><dd><code>pid ${holder.pid}</code>${f", {state}" if state else ""}</dd>
${fact("connected" if session else "locked", since)}
% endif
${fact("executes", lock.statement)}\
${fact("pauses", not lock.statement and lock.retry and f"after attempt {lock.retry.attempt}")}
</dl>${optional("p", lock.grant and "This role cannot see what these sessions execute. To fix: as a superuser, run")}
${optional("pre", lock.grant)}</%self:section>
<%self:section title="Before the failure" given="${failed and status.at_failure}">
<%
  then = status.at_failure
  held = then.holder and f"by {then.holder.instance}" + (f" (pid {then.holder.pid})" if then.holder.pid else "")
%>
<p class="soft">Last seen before ${clock(status.since)}; it may have changed since.</p>
<dl>${fact("lock", held and f"was held {held}")}${fact("executed", then.statement)}
% for one in then.blocked_by:
${fact("blocked by", one.said("blocked"))}
% endfor
</dl></%self:section>
<%self:section title="Fleet"><ul>
% for name, here, role, class_, session in fleet:
<li><div class="row"><span>${name}<span class="soft">${" (this instance)" if here else ""}</span></span>
<span class="role ${class_}">${role}</span></div>${optional("div", session, "soft")}</li>
% endfor
</ul><p class="soft">Ready instances keep no session and are not listed, except this one.</p></%self:section>
<%self:section title="Last run" given="${status.last_run}">
<%
  run = status.last_run
  took = run.started_at and run.finished_at and duration(run.finished_at - run.started_at)
  longest, unknown = max(run.seconds, default=0) or 1, [None] * len(run.applied)
%>
<p>${joined(", ", f"{run.result} by {run.instance}", clock(run.started_at), took)}</p>
<ol>${optional("li", len(run.applied) > shown and f"and {len(run.applied) - shown} earlier", "soft")}
% for name, seconds in list(zip(run.applied, [*run.seconds, *unknown]))[-shown:]:
<li class="ok">${revision(name, f"✓ {duration(seconds)}")}
% if seconds is not None:
<svg aria-hidden="true"><rect width="100%" height="100%" rx="3" class="rail"></rect>\
<rect width="${f"{max(1, 100 * seconds / longest):.1f}"}%" height="100%" rx="3" class="bar"></rect></svg>
% endif
</li>
% endfor
% if run.failed is not None:
<li class="bad">${revision(run.failed, "✕ failed")}</li>
% endif
</ol>${optional("pre", run.error)}</%self:section>
<%self:section title="History" given="${status.recent}"><ol>
% for row in recent:
<% good, bad = ("applied", "stamped", "backed_up"), ("failed", "half_applied", "interrupted") %>
<li class="${"ok" if row.outcome in good else "bad" if row.outcome in bad else ""}">
${revision(row.revision, joined(", ", row.direction != "upgrade" and row.direction, times(row)))}<div class="soft">
${joined(", ", clock(row.started_at, "%Y-%m-%d %H:%M:%S"), duration(row.seconds), row.instance)}</div></li>
% endfor
</ol></%self:section>
<footer>
${joined(" · ", status.instance, status.release and f"release {status.release}", status.strategy, status.dialect)}
${optional("p", status.lock_key and f"lock {status.lock_key}")}
<p>As of ${clock(now)}. The page reloads every ${reload_seconds} s.</p></footer></main></body></html>
<%def name="section(title, given=True, class_='')">
<% id = title.split()[0].lower() %>
% if given:
<section class="${class_}" aria-labelledby="${id}"><h2 id="${id}">${title}</h2>${caller.body()}</section>
% endif
</%def>
<%def name="optional(tag, text, class_='')">
% if text:
<${tag}${class_ and " class=" + class_}>${text}</${tag}>
% endif
</%def>
<%def name="fact(name, value)">${optional("dt", value and name)}${optional("dd", value)}</%def>
<%def name="revision(name, note)"><div class="row"><code>${name}</code><span class="role">${note}</span></div></%def>
