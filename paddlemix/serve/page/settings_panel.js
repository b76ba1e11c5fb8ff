// The settings: parameters and system text of the conversation, the key, the data, and what the server says of itself.

import { PARAMETERS, standardOptions } from "./chat_request.js";
import { dialogHead, openDialog } from "./dialogs.js";
import { byId, make, textButton } from "./dom.js";
import { number, text as say } from "./language.js";
import { read } from "./preferences.js";

/** todo: {changeOptions, changeKey, exportAll, importFile, removeAll, showShortcuts}. */
export class SettingsPanel {
  constructor({ options, status, todo }) {
    Object.assign(this, { options, status, todo });
  }

  open() {
    this.serverPart = this.server();
    return openDialog(
      "settings",
      dialogHead(say("settings"), "settings"),
      make("div", { class: "panel-body" }, this.parameters(), this.key(), this.data(), this.serverPart),
    );
  }

  /** Show the server's present state, if the panel is open. */
  refresh() {
    if (!byId("settings").open) return;
    const part = this.server();
    this.serverPart.querySelector(".facts").replaceWith(part.querySelector(".facts"));
  }

  parameters() {
    const options = this.options();
    const system = make("textarea", {
      rows: "3",
      id: "option-system",
      placeholder: say("systemHint"),
      input: () => this.todo.changeOptions({ system: system.value }),
    });
    const stop = make("textarea", {
      rows: "2",
      id: "option-stop",
      placeholder: say("stopHint"),
      input: () => this.todo.changeOptions({ stop: stop.value }),
    });
    system.value = options.system;
    stop.value = options.stop;
    const reset = textButton(say("resetParameters"), () => {
      this.todo.changeOptions(standardOptions());
      this.open();
    });
    return section(
      "parameters",
      make("p", { class: "quiet" }, say("parametersMore")),
      field("option-system", say("system"), null, system),
      make(
        "div",
        { class: "parameters" },
        PARAMETERS.map((parameter) => this.parameter(parameter, options[parameter.name])),
      ),
      field("option-stop", say("stopStrings"), null, stop),
      reset,
    );
  }

  parameter({ name, least, most, step }, value) {
    const id = `option-${name}`;
    const wrong = make("p", { class: "warning-text", id: `${id}-wrong` });
    const input = make("input", {
      id,
      type: "number",
      min: least,
      max: most,
      step: "any",
      inputmode: "decimal",
      placeholder: say("automatic"),
      value,
      "aria-describedby": `${id}-wrong`,
      input: () => onInput(),
    });
    const onInput = () => {
      const written = input.value === "" ? null : Number(input.value);
      const isWhole = step < 1 || Number.isInteger(written ?? 1);
      const isGood = input.validity.valid && isWhole;
      wrong.textContent = isGood ? "" : say("outOfRange", { least: number(least), most: number(most) });
      input.setAttribute("aria-invalid", String(!isGood));
      if (isGood) this.todo.changeOptions({ [name]: written });
    };
    return field(id, say(name), say(`${name}More`), input, wrong);
  }

  key() {
    const input = make("input", {
      id: "option-key",
      type: "password",
      autocomplete: "off",
      spellcheck: "false",
      placeholder: say("keyHint"),
      "aria-describedby": "option-key-wrong",
      change: async () => {
        await this.todo.changeKey(input.value.trim() || null);
        wrong.textContent = read("key") && this.status.state === "key" ? say("keyWrong") : "";
      },
    });
    const wrong = make("p", { class: "warning-text", id: "option-key-wrong" });
    input.value = read("key") ?? "";
    return section(
      "keySection",
      make(
        "form",
        { submit: (event) => event.preventDefault() },
        field("option-key", say("keyHint"), say("keyNote"), input, wrong),
      ),
    );
  }

  data() {
    const picker = make("input", {
      type: "file",
      accept: ".json,application/json",
      class: "unseen",
      tabindex: "-1",
      "aria-hidden": "true",
      id: "import-file",
      change: () => {
        const [file] = picker.files;
        picker.value = "";
        if (file) this.todo.importFile(file);
      },
    });
    return section(
      "data",
      make("p", { class: "quiet" }, say("dataMore")),
      picker,
      make(
        "div",
        { class: "buttons" },
        textButton(say("exportAll"), () => this.todo.exportAll(), { iconName: "export" }),
        textButton(say("import"), () => picker.click(), { iconName: "import" }),
        textButton(say("removeAll"), () => this.todo.removeAll(), { iconName: "trash", kind: "danger-plain" }),
      ),
    );
  }

  server() {
    const { info } = this.status;
    const facts = [
      [say("model"), info.models.join(", ")],
      [say("template"), info.template],
      [say("contextLength"), info.max_model_len && say("tokens", { n: number(info.max_model_len) })],
      [say("queue"), say("statusBusy", { running: info.num_running, waiting: info.num_waiting })],
      [say("serverVersion"), info.version],
    ].filter(([, value]) => value);
    return section(
      "server",
      make(
        "dl",
        { class: "facts" },
        facts.map(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]),
      ),
      textButton(say("shortcuts"), () => this.todo.showShortcuts(), { iconName: "keyboard" }),
    );
  }
}

function section(title, ...content) {
  return make("section", { "aria-label": say(title) }, make("h3", {}, say(title)), content);
}

function field(id, label, more, input, ...rest) {
  return make(
    "div",
    { class: "field" },
    make("label", { for: id }, label),
    more && make("p", { class: "quiet" }, more),
    input,
    rest,
  );
}
