"""The three sentences of the first screen, composed from the numbers of the run."""

from dataclasses import dataclass

from foretrain.report._compare import Gap, checked_rows, interpolate, largest_gap, measured_points
from foretrain.report._format import about, count, percent
from foretrain.report._run_folder import Record, RunFolder
from foretrain.report._shipping import Badge, first, join, shipping_sentence


@dataclass(frozen=True)
class Sentence:
    """One of the three sentences, the question it answers, and its verdict where there is one."""

    question: str
    text: str
    badge: Badge | None = None


def lead(run: RunFolder) -> tuple[Sentence, Sentence, Sentence]:
    """What was forecast, what happened, what can be shipped: one sentence each, whatever is missing."""
    return (
        Sentence("What was forecast", _forecast_sentence(run)),
        Sentence("What happened", _outcome_sentence(run), verdict_badge(run.certificate)),
        Sentence("What can be shipped", *shipping_sentence(run.compression)),
    )


def verdict_badge(certificate: Record | None) -> Badge | None:
    """The certificate's verdict as a badge."""
    if certificate is None:
        return None
    verdict = certificate["verdict"]
    words = {
        "held": Badge("certificate held", "good"),
        "left the linear regime": Badge("left the linear regime", "warn"),
        "unstable": Badge("unstable", "bad"),
    }
    return words.get(verdict, Badge(str(verdict), "quiet"))


def target(run: RunFolder) -> tuple[float, float | None] | None:
    """The test error aimed at and the steps forecast to reach it (None: not within the steps looked at)."""
    entries = [(float(error), steps) for error, steps in ((run.forecast or {}).get("steps_to") or {}).items()]
    wanted = (run.plan or {}).get("target_error")
    matching = [entry for entry in entries if wanted is not None and abs(entry[0] - wanted) <= 1e-9]
    return min(matching or entries, default=None, key=lambda entry: entry[0])


# ---- what was forecast


def _forecast_sentence(run: RunFolder) -> str:
    if run.forecast is None:
        return "No forecast was made before training, so there is nothing to hold this run against."
    claims = [_horizon_claim(run), _target_claim(run)]
    text = "Before the first step, the forecast said that training " + join([claim for claim in claims if claim])
    chosen = first((run.plan or {}).get("routes"), "chosen")
    return f"{text}; the route recommended is “{chosen['name']}”." if chosen else f"{text}."


def horizon(run: RunFolder) -> tuple[int, float | None]:
    """The last step looked at (the last one trained, if any) and the test error forecast there."""
    rows, forecast = checked_rows(run), run.forecast or {}
    if rows:
        return rows[-1]["step"], rows[-1].get("forecast_test_error")
    trained = [step for step in measured_points(run, "loss")[0] if step <= forecast["steps"][-1]]
    step = trained[-1] if trained else forecast["steps"][-1]
    curve = forecast.get("test_error")
    value = float(interpolate(forecast["steps"], curve, [step])[0]) if curve else float("nan")
    return step, value if value == value else None


def _horizon_claim(run: RunFolder) -> str:
    step, error = horizon(run)
    if error is not None:
        return f"would bring the test error to {percent(error)} in {count(step)} steps"
    forecast = run.forecast or {}
    start = forecast.get("initial_loss") or forecast["loss"][0]
    share = float(interpolate(forecast["steps"], forecast["loss"], [step])[0]) / start
    return f"would bring the loss to {percent(share)} of its first value in {count(step)} steps"


def _target_claim(run: RunFolder) -> str | None:
    aim = target(run)
    if aim is None:
        return None
    error, steps = aim
    if steps is None:
        return f"would not reach {percent(error, trim=True)} within {count(_resolved(run))} steps"
    return f"would need about {about(steps)} steps to reach {percent(error, trim=True)}"


def _resolved(run: RunFolder) -> int:
    """How many steps the forecast can tell anything about."""
    forecast = run.forecast or {}
    return forecast.get("horizon") or forecast["steps"][-1]


# ---- what happened


def _outcome_sentence(run: RunFolder) -> str:
    clauses = [*_training_clauses(run), _verdict_clause(run.certificate), _closed_form_clause(run)]
    text = join([clause for clause in clauses if clause])
    return f"{text[0].upper()}{text[1:]}."


def _training_clauses(run: RunFolder) -> list[str]:
    rows = checked_rows(run)
    diverged = [row["step"] for row in rows if row.get("measured_loss") is None and "measured_loss" in row]
    if diverged:
        return [f"the measured training loss was no longer finite at step {count(diverged[0])}"]
    loss, test = largest_gap(rows, "loss"), largest_gap(rows, "test_error")
    if loss is not None:
        return [_gap_clause(loss, test, rows[-1]["step"])]
    steps, _ = measured_points(run, "loss")
    if not steps:
        return ["nothing has been trained yet" + (", so the forecast is unchecked" if run.forecast else "")]
    errors = measured_points(run, "test_error")[1]
    reached = f" to a test error of {percent(errors[-1])}" if errors else ""
    return [f"the network was trained for {count(steps[-1])} steps{reached}"]


def _gap_clause(loss: Gap, test: Gap | None, last: int) -> str:
    subject, everywhere = "the measured training loss", f"at every checked step up to {count(last)}"
    apart = f"{subject} departed from the forecast by up to {percent(loss.value)} (step {count(loss.step)})"
    close = f"{subject} stayed within {percent(loss.value)} of the forecast"
    if test is None:
        return apart if loss.is_off else f"{close} {everywhere}"
    off_by, near = f"by up to {percent(test.value)} (step {count(test.step)})", f"within {percent(test.value)}"
    if loss.is_off:
        return f"{apart} and the test error {off_by}" if test.is_off else f"{apart} while the test error stayed {near}"
    if test.is_off:
        return f"{close} while the test error departed from it {off_by}"
    return f"{close} and the test error {near} {everywhere}"


def _verdict_clause(certificate: Record | None) -> str | None:
    if certificate is None:
        return None
    verdict, step = certificate["verdict"], certificate.get("first_violation")
    since = "" if step is None else f" at step {count(step)}"
    return {
        "held": "the certificate held",
        "left the linear regime": f"the run left the linear regime{since}",
        "unstable": f"training became unstable{since}",
    }.get(verdict, f"the certificate's verdict is “{verdict}”")


def _closed_form_clause(run: RunFolder) -> str | None:
    form = chosen_form(run.exact)
    if form is None or form.get("test_error") is None:
        return None
    tested = (run.data or {}).get("test")
    unseen = f" on {count(tested)} unseen functions" if tested else ""
    return f"the closed-form fit reached a test error of {percent(form['test_error'])}{unseen}"


def chosen_form(exact: Record | None) -> Record | None:
    """The closed form that was kept, or None."""
    forms = (exact or {}).get("forms") or []
    return next((form for form in forms if form["form"] == (exact or {}).get("chosen")), None)


def exact_sentence(exact: Record) -> str:
    """Why the chosen closed form was kept."""
    kept = chosen_form(exact)
    others = [form for form in exact["forms"] if form is not kept]
    if kept is None:
        return "No closed form was kept."
    rivals = [form["held_out_error"] for form in others if form.get("held_out_error") is not None]
    error = kept.get("held_out_error")
    if error is not None and rivals and error <= min(rivals):
        reason = f"on functions held out from the fit its error is {percent(error)}, against {percent(min(rivals))}"
        return f"The {kept['form']} form was kept: {reason}."
    return f"The {kept['form']} form was kept."
