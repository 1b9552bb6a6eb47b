"""How the page looks: one style sheet over Gradio's base theme; system fonts, so that nothing is fetched."""

from typing import Any

FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def theme() -> Any:
    import gradio as gr

    return gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.stone,
        radius_size=gr.themes.sizes.radius_lg,
        font=list(map(gr.themes.Font, FONTS)),
        font_mono=list(map(gr.themes.Font, MONO)),
    ).set(
        body_background_fill="*neutral_50",
        block_background_fill="white",
        block_border_color="*neutral_200",
        block_label_text_color="*neutral_700",
        block_title_text_color="*neutral_800",
        body_text_color="*neutral_900",
        body_text_color_subdued="*neutral_600",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_text_color="white",
        input_background_fill="white",
        input_border_color="*neutral_400",
        input_border_width="1px",
        checkbox_border_color="*neutral_500",
        button_secondary_background_fill="white",
        button_secondary_border_color="*neutral_300",
        button_border_width="1px",
        checkbox_background_color_selected="*primary_700",
        checkbox_label_background_fill="white",
        checkbox_label_background_fill_selected="*primary_50",
        slider_color="*primary_700",
    )


# Colours: content teal, style plum, fused amber; all text on its ground has a contrast of 4.5 or more.
CSS = """
:root { --content: #0f6e64; --style: #8e2c66; --fused: #86520b; --ink: #1c1917; --soft: #57534e; --line: #e2ded9;
  --paper: #fff; --ground: #f6f4f1; --bad: #a3211b; --good: #15653a; }
.dark { --content: #5ac8bb; --style: #e894c4; --fused: #e9b566; --ink: #f5f3f0; --soft: #b8b2aa; --line: #3b3835;
  --paper: #1f1d1b; --ground: #171614; --bad: #f29a94; --good: #7fd0a2; }
body { margin: 0; background: var(--ground); color: var(--ink); font-family: system-ui, -apple-system, "Segoe UI",
  Roboto, sans-serif; }
.gradio-container { max-width: 1440px !important; width: 100%; margin: 0 auto; }
.gradio-container main, .gradio-container > .main { width: 100%; max-width: none !important; }
.gradio-container .tab-container button.selected { color: var(--content); font-weight: 650; }
.gradio-container .prose, .gradio-container .prose * { color: inherit; }
footer { display: none !important; }
.masthead { display: flex; align-items: center; gap: 14px; padding: 14px 2px 6px; flex-wrap: wrap; color: var(--ink); }
.masthead h1 { font-size: 22px; font-weight: 750; letter-spacing: -.02em; margin: 0; }
.masthead .logo { width: 34px; height: 34px; border-radius: 9px; display: grid; grid-template: 1fr 1fr / 1fr 1fr;
  gap: 3px; padding: 6px; background: var(--paper); border: 1px solid var(--line); box-sizing: border-box; }
.masthead .logo i:nth-child(1) { background: var(--line); } .masthead .logo i:nth-child(2) { background: var(--style); }
.masthead .logo i:nth-child(3) { background: var(--content); } .masthead .logo i:nth-child(4) { background: var(--fused); }
.masthead .logo i { border-radius: 2px; }
.masthead p { margin: 0; color: var(--soft); font-size: 14px; }
.caption { color: var(--soft); font-size: 13px; margin: 4px 0; }
.note { font-size: 14px; margin: 6px 0; padding: 7px 11px; border-radius: 9px; border: 1px solid var(--line);
  border-left: 4px solid var(--soft); background: var(--paper); color: var(--ink); overflow-wrap: anywhere; }
.note.good { border-left-color: var(--good); } .note.bad { border-left-color: var(--bad); color: var(--bad); }
.note.busy { border-left-color: var(--content); }
.empty { border: 1.5px dashed var(--line); border-radius: 14px; padding: 34px 20px; text-align: center;
  color: var(--soft); background: var(--paper); }
.empty strong { color: var(--ink); } .empty p { margin: 6px 0 0; }
.kind { font-style: normal; font-size: 12px; font-weight: 650; color: var(--soft); }
.kind.content { color: var(--content); } .kind.style { color: var(--style); } .kind.lora { color: var(--fused); }
.act { font: inherit; font-size: 13px; font-weight: 600; border: 1px solid var(--line); background: var(--paper);
  color: var(--ink); border-radius: 8px; padding: 4px 11px; cursor: pointer; }
.act:hover { border-color: var(--soft); } .act.strong { background: var(--content); color: var(--paper); border-color: transparent; }
button:focus-visible, .sheet:focus-visible, a:focus-visible, input:focus-visible { outline: 3px solid #2b7fff;
  outline-offset: 2px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(96px, 1fr)); gap: 10px; }
.tile { margin: 0; position: relative; font-size: 12px; color: var(--soft); min-width: 0; }
.tile img, .tile .cross { width: 100%; aspect-ratio: 1; object-fit: cover; border-radius: 10px; display: block;
  border: 1px solid var(--line); box-sizing: border-box; margin: 0; }
.tile .cross { display: grid; place-items: center; font-size: 30px; color: var(--bad); background: var(--ground); }
.tile.refused figcaption, .tile.refused b { color: var(--bad); }
.tile figcaption { margin-top: 4px; overflow-wrap: anywhere; } .tile b { display: block; color: var(--ink);
  white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.act.corner { position: absolute; top: 5px; right: 5px; width: 26px; height: 26px; padding: 0; line-height: 1;
  border-radius: 50%; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(170px, 1fr)); gap: 14px; padding: 3px; }
.card { display: flex; flex-direction: column; padding: 0; font: inherit; text-align: left; border: 1px solid var(--line);
  border-radius: 14px; background: var(--paper); color: var(--ink); overflow: hidden; }
button.card { cursor: pointer; transition: transform .12s, box-shadow .12s; }
button.card:hover { transform: translateY(-2px); box-shadow: 0 6px 18px rgb(0 0 0 / .09); }
.card.chosen { border-color: var(--content); box-shadow: 0 0 0 2px var(--content); }
.card .frame { position: relative; display: block; overflow: hidden; aspect-ratio: 1; } .card img, .card .blank { width: 100%; aspect-ratio: 1;
  object-fit: cover; display: block; margin: 0; }
.card .about { display: flex; flex-direction: column; gap: 1px; padding: 10px 12px 12px; font-size: 12.5px; color: var(--soft); }
.card .about strong { font-size: 15px; color: var(--ink); overflow-wrap: anywhere; }
.card.greyed img, .card.greyed .blank { opacity: .35; filter: grayscale(1); } .card .why { color: var(--bad); margin-top: 4px; }
/* Sample images of a training have a margin of 4 in 132 pixels to the right and below. */
.card img.sample, .strip img { width: 103.2%; height: 103.2%; max-width: none; }
.strip .inside { width: 72px; height: 72px; overflow: hidden; border-radius: 8px; display: block; }
.badge { position: absolute; left: 8px; bottom: 8px; background: var(--ink); color: var(--paper); font-size: 12px;
  font-weight: 600; padding: 2px 9px; border-radius: 99px; }
.blank { background: repeating-linear-gradient(45deg, var(--ground) 0 8px, transparent 8px 16px), var(--paper); }
.training { border: 1px solid var(--line); border-radius: 14px; background: var(--paper); padding: 13px 15px; margin-bottom: 12px; }
.training header { display: flex; gap: 9px; align-items: baseline; color: var(--ink); } .spacer { flex: 1; }
.bar { height: 7px; border-radius: 99px; background: var(--line); overflow: hidden; margin: 9px 0 5px; }
.bar i { display: block; height: 100%; background: var(--content); border-radius: 99px; transition: width .6s; }
.training.failed .bar i, .training.crashed .bar i { background: var(--bad); }
.training.stopped .bar i, .training.queued .bar i { background: var(--soft); }
.curve { width: 100%; height: 42px; display: block; } .curve polyline { fill: none; stroke: var(--content);
  stroke-width: 1.5; vector-effect: non-scaling-stroke; opacity: .8; }
.strip { display: flex; gap: 8px; overflow-x: auto; } .strip figure { margin: 0; flex: 0 0 72px; }
.strip img { display: block; margin: 0; }
.strip figcaption { font-size: 11.5px; color: var(--soft); text-align: center; }
.sheet { overflow: auto; max-height: 78vh; border: 1px solid var(--line); border-radius: 14px; background: var(--paper); padding: 10px 12px; }
.sheet table { border-collapse: separate; border-spacing: 5px; margin: 0; } .sheet caption { text-align: left; font-weight: 650;
  padding: 2px 5px 8px; color: var(--ink); }
.sheet th, .sheet td { border: 0 !important; padding: 0 !important; background: none; }
.sheet th { font-size: 13px; font-weight: 600; color: var(--ink); padding: 3px 6px !important; max-width: 150px; text-align: center; }
.sheet tbody th { text-align: right; } .sheet .corner { font-size: 11.5px; color: var(--soft); text-align: right; }
.sheet .corner span { display: block; padding: 0 6px; }
.sheet .cell, .sheet .waiting { width: clamp(76px, 7.4vw, 128px); height: clamp(76px, 7.4vw, 128px); padding: 0; border: 0; border-radius: 10px; overflow: hidden;
  display: block; cursor: zoom-in; background: none; }
.sheet .cell img { width: 100%; height: 100%; object-fit: cover; display: block; margin: 0; }
.sheet .cell[aria-pressed=true] { box-shadow: 0 0 0 3px var(--content); } .sheet .cell:hover img { filter: brightness(1.05); }
.sheet .waiting { cursor: default; animation: wait 1.6s ease-in-out infinite alternate; } @keyframes wait { to { opacity: .45; } }
.sheet .nothing { min-width: 76px; font-size: 12px; color: var(--soft); text-align: center; }
.big { width: 100%; max-width: 420px; aspect-ratio: 1; border-radius: 14px; display: block; margin: 0 auto; }
.facts { width: 100%; border-collapse: collapse; font-size: 13px; color: var(--ink); margin: 0; }
.facts th, .facts td { text-align: left; padding: 5px 8px !important; border: 0 !important; border-bottom: 1px solid var(--line) !important;
  overflow-wrap: anywhere; font-weight: 400; } .facts th { color: var(--soft); white-space: nowrap; }
.facts a { color: var(--content); font-weight: 600; }
.beside { display: grid; grid-template-columns: 1fr 1fr; gap: 14px; } .beside figure { margin: 0; }
.beside img { width: 100%; border-radius: 14px; display: block; margin: 0; } .beside figcaption { font-size: 13px; color: var(--soft); padding: 6px 2px; }
.wipe { max-width: 560px; margin: 0 auto; } .wipe .stack { position: relative; } .wipe .stack > img, .wipe .over img { width: 100%;
  aspect-ratio: 1; display: block; margin: 0; border-radius: 14px; }
.wipe .over { position: absolute; inset: 0; clip-path: inset(0 0 0 var(--cut)); } .wipe .over::before { content: "";
  position: absolute; top: 0; bottom: 0; left: var(--cut); width: 2px; background: #fff; box-shadow: 0 0 6px rgb(0 0 0 / .5); }
.wipe label { display: flex; gap: 12px; align-items: center; margin-top: 10px; } .wipe input { flex: 1; accent-color: var(--content); }
.setting.hidden { display: none !important; }
@media (max-width: 640px) {
  .cards { grid-template-columns: repeat(2, 1fr); } .beside { grid-template-columns: 1fr; } .masthead p { flex-basis: 100%; }
  .gradio-container { padding: 0 8px !important; } }
@media (prefers-reduced-motion: reduce) { * { animation: none !important; transition: none !important; } }
"""
