"""The page, on Gradio: its controls and what they call. What they show is made by scripts/explorer/explorer.py."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import gradio as gr

from scripts.explorer.catalogue import UNKNOWN, Operation
from scripts.explorer.explorer import Explorer, OtherServer, Typed, parameters_help
from scripts.explorer.forms import Form

NO_OTHER = ("none", "")
POLL_S = 3  # while the server is not ready


def build(explorer: Explorer) -> gr.Blocks:
    """Return the page of an explorer."""
    with gr.Blocks(title="Playground", analytics_enabled=False, fill_width=True) as page:
        _Page(explorer)
    return page


def quiet(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that gets "" for an empty field, and whose failure is reported without any text.

    Gradio prints the traceback of a failure, whose message may quote what was typed.
    """

    @functools.wraps(function)
    def call(*fields: Any) -> Any:
        try:
            return function(*("" if field is None else field for field in fields))
        except Exception as error:  # noqa: BLE001 - whatever it is, its message stays here
            raise gr.Error(
                f"the playground failed ({type(error).__name__}): please report it", print_exception=False
            ) from None

    return call


class _Page:
    """The controls, and the functions between them and the explorer."""

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer
        self._lay_out()
        self._connect()

    def _lay_out(self) -> None:
        gr.Markdown("# Playground")
        self.status = gr.HTML()
        with gr.Accordion("Another server", open=False, visible=self.explorer.others):
            with gr.Row():
                self.inference = gr.Textbox("", label="Inference address", placeholder="http://127.0.0.1:8080")
                self.inference_key = gr.Textbox("", label="Inference key", type="password")
                self.management = gr.Textbox(
                    label="Management address (lists the models)", placeholder="http://127.0.0.1:8081"
                )
                self.management_key = gr.Textbox("", label="Management key", type="password")
            gr.Markdown("Nothing that is typed here is kept; the key goes to this address alone.")
        # Else Gradio refuses the choice of a model while the operation is still one of the model before it.
        free: dict[str, Any] = {"allow_custom_value": True}
        with gr.Row():
            self.model = gr.Dropdown(label="Model", **free)
            self.version = gr.Dropdown(label="Version", choices=[("default", "")], value="", **free)
            self.other = gr.Dropdown(label="Beside it", choices=[NO_OTHER], value="", **free)
            self.operation = gr.Dropdown(label="Operation", choices=[*UNKNOWN.operations], **free)
            self.again = gr.Button("Look again", scale=0, min_width=150)
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                self._lay_out_question()
            with gr.Column(scale=3, min_width=320):
                self._lay_out_answers()
        self.timer = gr.Timer(POLL_S)

    def _lay_out_question(self) -> None:
        self.first = gr.Textbox("", label="Texts, one a line", lines=6, max_lines=20)
        self.second = gr.Textbox("", label="", lines=4, max_lines=20, visible=False)
        self.each_line = gr.Checkbox(True, label="Each line of the first box is a text of its own")
        with gr.Row():
            self.ask = gr.Button("Ask", variant="primary", min_width=80)
            self.why = gr.Button("Why?", min_width=80)
            self.example = gr.Button("Example", min_width=80)
        with gr.Accordion("Parameters", open=False):
            self.parameters = gr.Textbox("", label="As JSON", placeholder='{"top_k": 3}', lines=2)
            self.target = gr.Textbox("", label="Label to explain (Why?)", placeholder="the answer")
            self.help = gr.HTML()
        with gr.Accordion("The model", open=False):
            self.about = gr.HTML()

    def _lay_out_answers(self) -> None:
        with gr.Tab("Answers"), gr.Row():
            with gr.Column(min_width=280):
                self.answers = gr.HTML()
            with gr.Column(min_width=280, visible=False) as self.other_column:
                self.other_answers = gr.HTML()
        with gr.Tab("Time and headers"):
            self.details = gr.HTML()
        with gr.Tab("curl"):
            self.curl = gr.Code(language="shell", label="the request that was just sent", wrap_lines=True)
        with gr.Tab("Python"):
            self.python = gr.Code(language="python", label="the request that was just sent", wrap_lines=True)
        with gr.Tab("JSON"):
            self.raw = gr.Code(language="json", label="the answer as it came", wrap_lines=True)
        with gr.Tab("Evaluation") as self.evaluation:
            self.report = gr.HTML()

    def _connect(self) -> None:
        address = [self.inference, self.management, self.inference_key, self.management_key]
        choice = [*address, self.model, self.version, self.operation]
        typed = [
            *address,
            self.model,
            self.version,
            self.other,
            self.operation,
            self.first,
            self.second,
            self.each_line,
        ]
        typed += [self.parameters, self.target]
        shown = [self.answers, self.other_column, self.other_answers, self.details, self.raw, self.curl, self.python]
        form = [self.first, self.second, self.each_line, self.why, self.help]
        looked = [self.status, self.timer, self.model]
        described = [self.version, self.other, self.operation, self.about, *form]
        options: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

        page = gr.context.Context.root_block
        gr.on(
            [page.load, self.again.click, self.timer.tick, *(box.blur for box in address)],
            quiet(self._look),
            [*address, self.model],
            looked,
            **options,
        ).then(quiet(self._describe), choice, described, **options)
        self.model.input(quiet(self._describe), choice, described, **options)
        self.version.input(quiet(self._describe), choice, described, **options)
        self.operation.input(quiet(self._form), choice, form, **options)
        self.example.click(quiet(self._example), choice, [self.first, self.second], **options)
        options["show_progress"] = "minimal"
        self.ask.click(quiet(self._ask), typed, shown, **options)
        self.why.click(quiet(self._why), typed, shown, **options)
        self.evaluation.select(quiet(self.explorer.report_of), [self.model], [self.report], **options)

    def _look(self, *fields: Any) -> list[Any]:
        *address, chosen = fields
        view = self.explorer.look(OtherServer(*address))
        names = list(view.models)
        model = chosen if chosen in names or (chosen and not names) else next(iter(names), None)
        return [view.status, gr.update(active=not view.is_ready), gr.update(choices=names, value=model)]

    def _describe(self, *fields: Any) -> list[Any]:
        *address, model, version, label = fields
        versions = self.explorer.look(OtherServer(*address)).models.get(model, [])
        numbers = [each.version for each in versions]
        version = version if version in numbers or not versions else ""
        choices = [("default" if not versions else f"{numbers[0]} (default)", "")] + [
            (word, word) for word in numbers[1:]
        ]
        served, about = self.explorer.describe(OtherServer(*address), model, version or None)
        labels = list(served.operations)
        label = label if label in labels else labels[0]
        return [
            gr.update(choices=choices, value=version),
            gr.update(choices=[NO_OTHER, *((word, word) for word in numbers)], value="", interactive=len(numbers) > 1),
            gr.update(choices=labels, value=label),
            about,
            *self._controls(served.operations[label]),
        ]

    def _form(self, *fields: Any) -> list[Any]:
        return self._controls(self._operation(*fields))

    def _example(self, *fields: Any) -> tuple[str, str]:
        operation = self._operation(*fields)
        return operation.form.fill(operation.example, operation.example_parameters) if operation.example else ("", "")

    def _ask(self, *fields: Any) -> list[Any]:
        return self._shown(*fields, explain=False)

    def _why(self, *fields: Any) -> list[Any]:
        return self._shown(*fields, explain=True)

    def _shown(self, *fields: Any, explain: bool) -> list[Any]:
        address, (model, version, other, operation, *texts) = fields[:4], fields[4:]
        typed = Typed(model, version or None, other or None, operation, *texts)
        shown = self.explorer.ask(OtherServer(*address), typed, explain=explain)
        column = gr.update(visible=bool(shown.other))
        return [shown.answers, column, shown.other, shown.details, shown.raw, shown.curl, shown.python]

    def _operation(self, *fields: Any) -> Operation:
        *address, model, version, label = fields
        served, _ = self.explorer.describe(OtherServer(*address), model, version or None)
        return served.operations.get(label) or next(iter(served.operations.values()))

    def _controls(self, operation: Operation) -> list[Any]:
        form: Form = operation.form
        second = gr.update(visible=False) if form.second is None else gr.update(visible=True, label=form.second.label)
        return [
            gr.update(label=form.first.label),
            second,
            gr.update(visible=form.has_lines and form.task != "sentence-similarity"),
            gr.update(interactive=operation.explained is not False),
            parameters_help(operation),
        ]
