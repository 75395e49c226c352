"""The console at ``/console``: what an auditor reads, and an officer does, in a browser.

Every page is a ``GET`` with all of its state in the address, made on the server, and works without
script. A page is a module, a template and a test. Nothing else has to be told of it: modules in
``pages`` are found by themselves, and the navigation shows what the caller's role may open.

``pages/warnings.py``::

    routes = console_router()

    @routes.get("/console/warnings", openapi_extra=only(*READERS))
    def warnings(request: Request, asked: PageAsked, travel: Travel) -> Response:
        service = service_of(request)
        with service.reading() as (c, head):
            times = travel.resolve(service, head)
            found = service.conduct.warnings(
                c, position=times.position, limit=asked.limit + 1,
                cursor_position=asked.after, oldest_first=asked.oldest_first,
            )
        return render(request, "warnings.html", times=times, listed=paged(asked, found))

The parameters are those of the API (``ledger.service.http.shapes``); an empty field of a form is no
parameter, and a date and time without an offset is one of UTC (see ``route.py``). ``times`` makes
the link to "this exact view", which pins ``known_position``.

``templates/warnings.html``::

    {% extends "layout.html" %}
    {% import "parts.html" as parts %}
    {% set title = "Warnings" %}
    {% block main %}
    {% call parts.filters(address) %}
      {{ parts.field("subject", "Subject", query.subject) }}
    {% endcall %}
    {% call parts.table(["Warning", "Subject", "Recorded"]) %}
      {% for item in listed.items %}<tr>
        <td>{{ item.id }}</td><td>{{ parts.subject(item.subject) }}</td>
        <td>{{ parts.instant(item.recorded_at) }}</td>
      </tr>{% endfor %}
    {% endcall %}
    {{ parts.pager(listed, query) }}
    {% endblock %}

A form that changes something is a ``POST`` with ``{{ parts.csrf(csrf) }}`` in it; the route has
checked the token, and ``form_of(request)`` has the fields. ``record(request, command, once=…)``
runs a ``Command`` as the API does. What is refused is shown as a page: just raise.

Forms for the commands of the API are there already (``acting``): a page links to them, filled in as
far as it can, for those who may use them::

    {% if may_open("/console/reinstate") %}
    <a class="button" href="{{ link("/console/reinstate", suspension=item.id) }}">End it</a>
    {% endif %}

``parts.subject(…)`` and its like are links for whoever may open such a page, and words for others;
``may_open("/console/warnings")`` tells it of any other address. ``export_offer(request, "warnings",
times)`` (``pages/export.py``) is what ``events.export(export, csrf)`` of ``event-parts.html`` makes
the form of, by which a list is taken along as a file.

A subject's page is ``/console/subjects/record?subject=user:alice``, because ids may hold a slash;
an event's is ``/console/events/41``, a suspension's ``/console/suspensions/sus_…``, a violation's
``/console/violations/vio_…``.

``tests/service/console/test_warnings.py`` asks the page with ``signed_in(run, "auditor")``, a
client with a session, from ``tests/service/console/conftest.py``.
"""
